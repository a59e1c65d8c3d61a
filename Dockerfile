# The image of the three programs, for everybody with a container builder:
#
#   docker build -t registry.example.com/stellar-memory:0.1.0 .
#
# (`make up` needs no image registry: it assembles the same image from what cargo built.)
ARG RUST_IMAGE=docker.io/library/rust:1.95-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${RUST_IMAGE} AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --bins -p operator -p gateway -p engine \
    && mkdir /out && cp target/release/operator target/release/gateway target/release/engine /out/

FROM ${RUNTIME_IMAGE}
COPY --from=build /out/operator /out/gateway /out/engine /usr/local/bin/
# Numeric, so that Kubernetes can tell that it is not root. The chart gives each program a user of its own.
USER 65532:65532
