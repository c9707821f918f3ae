# The entry commands. Settings: see the heads of packaging/up.sh, down.sh and wipe.sh.
.PHONY: help up down wipe install uninstall test system-test sim bench check bench-store bench-net bench-scaling

help:
	@echo "make up      build, make a file system under ./var, start the server, mount at ./mnt"
	@echo "             PORT=7811  SIZE=4G (each of 4 target files)  TARGETS=\"/dev/nvme0n1 ...\""
	@echo "make down    unmount and stop; make up finds everything again"
	@echo "make wipe    erase the file system (asks; YES=1 does not)"
	@echo "make install programs under /usr/local (PREFIX=) and /sbin/mount.weft; make uninstall"
	@echo "make test    install what the tests need, build, run every test"
	@echo "make system-test  only the tests on a real mount (ARGS=\"--quick trees\"; see tests/run.py --list)"
	@echo "make sim SEEDS=2000  so many fresh seeds of the simulator (a night: SEEDS=1000000)"
	@echo "make bench   figures of fio, metadata and tree loads, on a mount and on a local directory (PEER=/mnt/other: there, too)"
	@echo "make bench-store  the chunk store alone against fio on one file (ARGS=\"--device /dev/X --force\")"
	@echo "make bench-net    a server over TCP on loopback, without a mount, against the store alone"
	@echo "make bench-scaling  what grows with shards and clients, what stays flat with files, lengths, connections (ARGS=\"--only files\")"
	@echo "make check   formatting and lints"

up:
	@./packaging/up.sh

down:
	@./packaging/down.sh

wipe:
	@./packaging/wipe.sh

install uninstall:
	@./packaging/install.sh $@

test:
	@./packaging/test-deps.sh
	@python3 tests/all.py $(ARGS)

system-test:
	@cargo build --release --quiet
	@python3 tests/run.py $(ARGS)

SEEDS ?= 2000
sim:
	@cargo build --release --quiet -p weft-sim
	@$${CARGO_TARGET_DIR:-target}/release/weft-sim store --fresh --seeds $(SEEDS)
	@$${CARGO_TARGET_DIR:-target}/release/weft-sim cluster --fresh --seeds $(SEEDS)

bench:
	@cargo build --release --quiet
	@python3 benchmarks/bench.py $(ARGS)

bench-store:
	@cargo build --release --quiet -p weft-load
	@mkdir -p var
	@target/release/weft-load store $(if $(findstring --device,$(ARGS)),,--file var/bench-store) $(ARGS)

bench-net:
	@cargo build --release --quiet
	@python3 benchmarks/net.py $(ARGS)

bench-scaling:
	@cargo build --release --quiet
	@python3 benchmarks/scaling.py $(ARGS)

check:
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
