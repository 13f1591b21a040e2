# Every target is what a reader could type. CI calls lint, demo and test.
GO      ?= go
PREFIX  ?= /usr/local
# The tag leaves out urfave/cli's man page generator: 0.3 ms of every start.
TAGS    = urfave_cli_no_docs
FLAGS   = -trimpath -buildvcs=false -tags $(TAGS)
# thinrun carries itself a second time, with the libraries that transfer images; they
# would cost 2 ms of every start (image_face.go).
SPLIT   = $(FLAGS),split
WHOLE   = .build/thinrun-full
VERSION = $(shell git describe --tags --match 'v[0-9]*' 2>/dev/null | sed 's/^v//')
COMMIT  = $(shell git describe --always --dirty --exclude '*' 2>/dev/null)
LDFLAGS = -s -w $(if $(VERSION),-X main.version=$(VERSION)) -X main.commit=$(COMMIT)
# Run from the module proxy, not installed. SA1019 (deprecated) is off: runtime-spec
# marks fields that configs still carry, and a runtime has to read them.
STATICCHECK = $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 -tags urfave_cli_no_docs -checks inherit,-SA1019

SEED    = 1

export CGO_ENABLED = 0

.PHONY: build install test test-unit test-native test-lab labtest powercut sweep storm lint bench bench-storage demo deps tools clean

build: ## the static binary
	$(GO) build $(FLAGS) -ldflags '$(LDFLAGS)' -o $(WHOLE) .
	$(GO) build $(SPLIT) -ldflags '$(LDFLAGS)' -o thinrun .

install: build
	install -D -m 0755 thinrun $(DESTDIR)$(PREFIX)/bin/thinrun

test: deps build tools ## everything, here and in the lab kernel, one summary
	.build/bin/run all

test-native: build tools ## everything, on this kernel, boxed
	.build/bin/run native

test-lab: deps build tools ## everything, in the lab kernel
	.build/bin/run lab

test-unit: ## what needs no root; the rest skips and says so
	$(GO) test $(FLAGS) ./...

labtest: deps ## the lab itself
	$(GO) test $(FLAGS) -count 1 ./tests/lab/...

# The recordings stay in .build/power; with REPLAY=-replay the same cuts come again.
powercut: deps build tools ## the power goes 100 times under load; SEED=2 for other times
	@mkdir -p .build/power .build/test
	$(GO) test $(FLAGS) -c -o .build/test/power.test ./tests/power
	cd tests/power && THINRUN=$(CURDIR)/thinrun ../../.build/bin/labexec -vm none -rw ../../.build/power \
		../../.build/test/power.test -test.v -cuts 50 -kills 20 -rounds 30 -seed $(SEED) -keep $(CURDIR)/.build/power $(REPLAY)

sweep: deps build tools ## each command on images and pool killed 100 times, here and in the lab; an hour or two
	$(GO) test $(FLAGS) -c -o .build/test/storage.test ./tests/storage
	for place in none uml; do (cd tests/storage && THINRUN=$(CURDIR)/thinrun ../../.build/bin/labexec -vm $$place -disk 8G -disk 4G \
		../../.build/test/storage.test -test.v -test.timeout 0 -test.run TestKilled -points 100) || exit 1; done

storm: deps build tools ## eight processes at random on one pool for ten minutes; SEED=2 for other deeds
	$(GO) test $(FLAGS) -c -o .build/test/storage.test ./tests/storage
	cd tests/storage && THINRUN=$(CURDIR)/thinrun ../../.build/bin/labexec -vm uml -disk 8G -disk 4G \
		../../.build/test/storage.test -test.v -test.timeout 0 -test.run TestStorm -storm 10m -seed $(SEED)

lint:
	@files=$$(gofmt -l .); [ -z "$$files" ] || { echo "gofmt: $$files" >&2; exit 1; }
	$(GO) vet $(FLAGS) ./...
	@[ -e $(WHOLE) ] || { mkdir -p .build && : >$(WHOLE); } # vet wants it to be there, not what is in it
	$(GO) vet $(SPLIT) .
	GOARCH=arm64 $(GO) vet $(FLAGS) ./...
	$(STATICCHECK) ./...

bench: deps build ## beside Debian's runc and crun, into docs/bench
	$(GO) run $(FLAGS) ./tests/bench

bench-storage: deps build ## beside containerd's devmapper snapshotter, in the lab kernel; half an hour
	@tests/deps.sh containerd runc dmsetup
	@tests/demo/debian.sh
	$(GO) run $(FLAGS) ./tests/bench -storage -rounds 7

demo: build ## the main job, step by step, on this kernel and on dm-thin
	tests/demo/demo.sh

deps: ## Debian's packages that the tests use, and the lab's kernel
	@tests/deps.sh
	@tests/lab/kernels.sh

tools: ## labexec and the test runner
	@$(GO) build $(FLAGS) -o .build/bin/ ./tests/lab/labexec ./tests/run

clean:
	rm -rf thinrun .build
