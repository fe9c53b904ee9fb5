# Makes the sources usable elsewhere: as one file, an installation, Debian
# packages, and on other machines. The Makefile includes this file.

S       = build/standalone
VERSION = $(shell sed -n 's/^\#define KAWS_VERSION "\(.*\)"/\1/p' $(HEADER))
ALONE   = $(UNIT:$T/%=$T/standalone/%) $(FAULT:$T/%=$T/standalone/%)
PROVE  += $(ALONE) $T/standalone/keyring_aws.so

NEED_INSTALL    = python3
NEED_DEB        = $(NEED_BUILD) python3 dpkg-dev
NEED_STANDALONE = python3 dpkg-dev xz-utils
NEED_TEST      += g++ lld pkg-config lintian man-db dpkg-dev awscli curl \
                  systemd apparmor iproute2 python3-yaml python3-kubernetes

# ---- one file ----------------------------------------------------------------

standalone: build/keyring_aws_standalone.h

build/keyring_aws_standalone.h: $(HEADER) keyring_aws_plugin.c amalgamate.py \
                                | build/bearssl-0.6
	$(PYTHON) amalgamate.py --bearssl build/bearssl-0.6

build/bearssl-0.6: | need-standalone
	@mkdir -p build
	$(PYTHON) tests/hosts/debian.py build/apt bookworm bearssl
	tar xf build/apt/bearssl_*.orig.tar.* -C build --no-same-owner

# The tests, beside that header; and nothing where BearSSL's or libcurl's is.
$S/ready: build/keyring_aws_standalone.h \
          $(wildcard tests/unit/* tests/unit/*/* tests/unit/*/*/* tests/fault/* \
              tests/build/* fuzz/*.h)
	@rm -rf $S && mkdir -p $S/tests $S/fuzz $S/without/bearssl \
	    $S/without/curl/curl
	@cp -r tests/unit tests/fault tests/build $S/tests
	@cp fuzz/*.h $S/fuzz
	@cp $< $S/keyring_aws.h
	@touch $S/without/bearssl/bearssl.h $S/without/curl/curl/curl.h $@

# Our own code runs under ASan elsewhere; run.py runs some of these under valgrind.
$(ALONE): $T/standalone/%: $S/ready
	@mkdir -p $(@D); echo "  $@"
	@gcc $(STRICT) -O0 -g -I$S/without/bearssl -o $@ $S/tests/$*.c -lcurl \
	    -lcmocka

$T/standalone/keyring_aws.so: build/keyring_aws_standalone.h
	@mkdir -p $(@D); echo "  $@"
	@$(CC) $(STRICT) $(CFLAGS) -shared -fPIC -fvisibility=hidden -o $@ \
	    build/keyring_aws_plugin_standalone.c -lcurl

# ---- an installation -----------------------------------------------------------

LOG = tests/package/debian/changelog

MAN   = $(wildcard tests/package/man/*.md)
PAGES = $(MAN:tests/package/man/%.md=build/man/%.7)

# Each page names the others.
build/man/%.7: tests/package/man/%.md $(MAN) tests/package/man.py $(HEADER) \
               $(LOG) | need-install
	@mkdir -p $(@D)
	@$(PYTHON) tests/package/man.py $< $(HEADER) $(LOG) > $@.new
	@mv $@.new $@

# The places go by the environment, so that a shell reads nothing into them.
export DESTDIR PREFIX PLUGIN_DIR
PLACES = $(value DESTDIR)$(value PREFIX)$(value PLUGIN_DIR)
LAY    = $(if $(findstring $$,$(PLACES)),$(error DESTDIR, PREFIX or PLUGIN_DIR \
         has a '$$', which make reads as a variable: choose a place without it))\
         VERSION='$(VERSION)' tests/package/install.sh

install: build/keyring_aws.so $(PAGES)
	@$(LAY) install

uninstall:
	@$(LAY) uninstall

deb: build/keyring_aws.so $(PAGES) | need-deb
	@tests/package/deb.sh $(VERSION)

# ---- other machines ---------------------------------------------------------

test-arch: need-test
	+@$(PYTHON) tests/arch.py $(ARCH)

.PHONY: standalone install uninstall deb test-arch
