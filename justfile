# One entry for everything. `just` runs what a commit must pass.

default: lint test

# Format and clippy, warnings are errors.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# All tests, the real binary included.
test:
    cargo test --workspace

# The storage layers alone: seconds, no DataFusion.
test-storage:
    cargo test -p kalamdb-wal -p kalamdb-engine

# Random operations with crashes on a simulated disk, many seeds.
sim seeds="5000":
    KALAMDB_SEEDS={{seeds}} cargo test --release -p kalamdb-engine --test model -- --nocapture

# Tables in object stores, one of them a real S3 server: `KALAMDB_TEST_S3=http://127.0.0.1:8333 just stores`.
stores:
    cargo test -p kalamdb-engine --features object-stores --test object_stores --lib
    cargo test --workspace --test stores

# The sqllogictest files whose names contain a word, in every state; without one, all of them.
slt word="":
    KALAMDB_SLT={{word}} cargo test --workspace --test answers files

# Random statements beside SQLite, many seeds.
random seeds="300":
    KALAMDB_SEEDS={{seeds}} cargo test --workspace --test answers random -- --nocapture

# kill -9 under load, many rounds.
crash rounds="50":
    KALAMDB_CRASH_ROUNDS={{rounds}} cargo test -p kalamdb-tests --test crash -- --nocapture

# Fuzz one target, for example `just fuzz wal_decode 600`.
fuzz target seconds="60":
    cd fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none {{target}} -- -max_total_time={{seconds}}

# Side-by-side benchmarks as one table.
bench:
    cargo run --release -p kalamdb-benches -- report

# A server on 127.0.0.1:8080 with ./data.
serve:
    cargo run --release

# What CI runs.
ci:
    bash .ci/run
