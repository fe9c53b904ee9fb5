# What becomes of the sources elsewhere: one file, an installation, Debian
# packages, other machines. Included by the Makefile.

S       = build/standalone
INSTALL = install -D -m 644
I       = $(DESTDIR)$(PREFIX)
OURS    = $I/include/keyring_aws.h $I/share/pkgconfig/keyring_aws.pc \
          $I/share/man/man7/keyring_aws.7 $(DESTDIR)$(PLUGIN_DIR)/keyring_aws.so
VERSION = $(shell sed -n 's/^\#define KAWS_VERSION "\(.*\)"/\1/p' $(HEADER))
ALONE   = $(UNIT:$T/%=$T/standalone/%) $(FAULT:$T/%=$T/standalone/%)
PROVE  += $(ALONE) $T/standalone/keyring_aws.so

NEED_INSTALL    = pandoc
NEED_DEB        = $(NEED_BUILD) pandoc dpkg-dev
NEED_STANDALONE = python3 dpkg-dev
NEED_TEST      += g++ lld pkg-config lintian man-db pandoc dpkg-dev

# ---- one file ----------------------------------------------------------------

APT = apt-get -qq -oDir::Etc::SourceList=$(CURDIR)/build/apt/list \
      -oDir::Etc::SourceParts=/dev/null -oAPT::Sandbox::User= \
      -oDir::State::Lists=$(CURDIR)/build/apt/lists \
      -oDir::Cache=$(CURDIR)/build/apt

standalone: build/keyring_aws_standalone.h

build/keyring_aws_standalone.h: $(HEADER) keyring_aws_plugin.c amalgamate.py \
                                | build/bearssl-0.6
	$(PYTHON) amalgamate.py --bearssl build/bearssl-0.6

build/bearssl-0.6: | need-standalone
	mkdir -p build/apt/lists
	echo 'deb-src http://deb.debian.org/debian bookworm main' > build/apt/list
	cd build/apt && $(APT) update && $(APT) source --download-only bearssl
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

$(ALONE): $T/standalone/%: $S/ready
	@mkdir -p $(@D); echo "  $@"
	@gcc $(STRICT) $(ASAN) -I$S/without/bearssl -o $@ $S/tests/$*.c -lcurl \
	    -lcmocka

$T/standalone/keyring_aws.so: build/keyring_aws_standalone.h
	@mkdir -p $(@D); echo "  $@"
	@$(CC) $(STRICT) $(CFLAGS) -shared -fPIC -fvisibility=hidden -o $@ \
	    build/keyring_aws_plugin_standalone.c -lcurl

# ---- an installation -----------------------------------------------------------

# The manual page is the README without its figures, with lists for tables.
build/keyring_aws.7: README.md $(HEADER) tests/package/man.lua | need-install
	@mkdir -p $(@D)
	{ sed -n '1s/.* - v[0-9.]* - \(.*\) - .*/# NAME\n\nkeyring_aws - \1\n/p' \
	    $(HEADER); sed -e '1s/.*/# DESCRIPTION/; s/^## /# /' \
	    -e '/^# How fast/,/^# Limits/{/^# Limits/!d;}' README.md; } | \
	    pandoc -s -f gfm -t man -L tests/package/man.lua -V title=KEYRING_AWS \
	    -V section=7 -V footer="keyring_aws $(VERSION)" -o $@

install: build/keyring_aws.so build/keyring_aws.7
	sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|' \
	    tests/package/keyring_aws.pc.in > build/keyring_aws.pc
	$(INSTALL) $(HEADER) $(word 1,$(OURS))
	$(INSTALL) build/keyring_aws.pc $(word 2,$(OURS))
	$(INSTALL) build/keyring_aws.7 $(word 3,$(OURS))
	$(INSTALL) build/keyring_aws.so $(word 4,$(OURS))

uninstall:
	rm -f $(OURS)

deb: build/keyring_aws.so build/keyring_aws.7 | need-deb
	+tests/package/deb.sh $(VERSION)

# ---- other machines ---------------------------------------------------------

test-arch: need-test
	+@$(PYTHON) tests/arch.py $(ARCH)

.PHONY: standalone install uninstall deb test-arch
