# keyring_aws: `make` builds the plugin, `make demo` shows it at work, `make test`
# proves it. Missing packages are installed (on Debian, as root) or named.
# Everything that is built goes to build/.

CC         = cc
CFLAGS     = -Os -g
PREFIX     = /usr/local
PLUGIN_DIR = /usr/lib/mysql/plugin
PYTHON     = /usr/bin/python3
FUZZ_S     = 60

# Nothing below needs changing.
MAKEFLAGS += -j$(shell nproc 2>/dev/null || echo 1)

STRICT  = -std=c99 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror
BEARSSL = -l:libbearssl.a -Wl,--exclude-libs,ALL -Wl,-z,now
ASAN    = -Og -g1 -fsanitize=address,undefined -fno-sanitize-recover=all
TSAN    = -Og -g1 -fsanitize=thread
KIND    = $(if $(findstring /asan/,$@),$(ASAN),$(if $(findstring /tsan/,$@),\
          $(TSAN),-O2 -g))
HEADER  = keyring_aws.h
T       = build/tests

NEED_BUILD = gcc libc6-dev libbearssl-dev libcurl4-openssl-dev
NEED_DEMO  = $(NEED_BUILD) python3 python3-pymysql python3-botocore openssl \
             debian-archive-keyring
BENCHED    = libcjson-dev libjansson-dev binutils
NEED_TEST  = $(NEED_DEMO) $(BENCHED) libcmocka-dev tcc python3-pytest clang \
             libclang-rt-dev llvm valgrind cppcheck git
NEED_BENCH = $(NEED_DEMO) $(BENCHED) gnuplot-nox

UNIT  = $(patsubst tests/%.c,$T/%,$(wildcard tests/unit/test_*.c))
FAULT = $(patsubst tests/%.c,$T/%,$(wildcard tests/fault/test_*.c))
FUZZ  = $(patsubst fuzz/%.c,%,$(wildcard fuzz/fuzz_*.c))
KINDS = asan tsan plain
HOSTS = $(KINDS:%=$T/%/host_57) $(KINDS:%=$T/%/host_80) $T/asan/host_unknown
PROVE = $(UNIT) $(UNIT:$T/%=$T/clang/%) $(FAULT) $T/tsan/test_threads \
        $(KINDS:%=$T/%/keyring_aws.so) $(HOSTS) $T/hosts/oracle \
        $T/hosts/driver $(FUZZ:%=$T/fuzz/%) $(KINDS:%=$T/%/component_host)

all: build/keyring_aws.so

include tests/package/rules.mk

demo: need-demo build/keyring_aws.so
	@$(PYTHON) tests/demo.py

prove: need-test build/keyring_aws.so $(PROVE)

test: prove
	@$(PYTHON) tests/run.py

test-long: prove
	@KAWS_LONG=1 $(PYTHON) tests/run.py

bench bench-long: need-bench build/keyring_aws.so
	@CFLAGS="$(CFLAGS)" $(PYTHON) tests/bench/bench.py \
	    $(if $(findstring long,$@),--long)

check: build/keyring_aws.so
	@$(PYTHON) tests/check_house.py --self-test
	@$(PYTHON) tests/check_house.py

# Fuzzes each target for FUZZ_S seconds; inputs that fail go to build/fuzz/.
fuzz: need-test $(FUZZ:fuzz_%=search-%)

search-%: build/fuzz/fuzz_%
	@mkdir -p build/fuzz/corpus/$* && cd build/fuzz && ./fuzz_$* \
	    $(addprefix -dict=../../,$(wildcard fuzz/$*.dict)) -max_len=4096 \
	    -max_total_time=$(FUZZ_S) corpus/$* ../../fuzz/corpus/$*

coverage: need-test
	@$(PYTHON) tests/coverage.py

need-%:
	@tests/need.sh $(NEED_$(shell echo $* | tr a-z A-Z))

build/keyring_aws.so: keyring_aws_plugin.c $(HEADER) | need-build
	@mkdir -p $(@D)
	$(CC) $(STRICT) $(CFLAGS) -shared -fPIC -fvisibility=hidden -o $@ $< \
	    $(BEARSSL) -lcurl

# ---- the programs of `make test` ------------------------------------------

$(PROVE): $(HEADER) $(wildcard tests/unit/*.h tests/fault/*.h fuzz/*.h) \
          | need-test

LINK = @mkdir -p $(@D); echo "  $@"; $(or $(BY),gcc) $(STRICT) $1 -o $@ \
       $(filter %.c,$(or $2,$^)) $(BEARSSL) -lcurl

$T/%: tests/%.c
	$(call LINK,$(ASAN)) -lcmocka

$T/clang/%: BY = clang
$T/clang/%: tests/%.c
	$(call LINK,-O2) -lcmocka

$T/tsan/%: tests/fault/%.c
	$(call LINK,$(TSAN)) -lcmocka

$T/fuzz/%: fuzz/%.c fuzz/main.c
	$(call LINK,$(ASAN),$< fuzz/main.c)
build/fuzz/%: BY = clang
build/fuzz/%: BEARSSL = -l:libbearssl.a
build/fuzz/%: fuzz/%.c $(HEADER) $(wildcard fuzz/*.h)
	$(call LINK,$(ASAN) -fsanitize=fuzzer,$<)
$T/fuzz/fuzz_config build/fuzz/fuzz_config: keyring_aws_plugin.c

$T/%/keyring_aws.so: keyring_aws_plugin.c
	$(call LINK,$(KIND) -shared -fPIC -fvisibility=hidden)

$(HOSTS): tests/hosts/plugin_host.c
	$(call LINK,$(KIND) -rdynamic -D$(shell echo $(@F) | tr a-z A-Z)) -ldl
$T/%/component_host: tests/hosts/component_host.c
	$(call LINK,$(KIND) $(if $(findstring plain,$@),,-rdynamic)) -ldl

clean:
	rm -rf build

.PHONY: all demo prove test test-long bench bench-long check fuzz coverage clean
