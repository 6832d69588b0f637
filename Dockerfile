# ark's image: one static executable, certificate authorities, /tmp and a user, and nothing else - no shell.
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg VERSION=v1.2.3 -t NAME .
# `make image` builds the same image without a container daemon; what is inside comes from e2e/image for both.
FROM --platform=$BUILDPLATFORM golang:1.26.8 AS build
ENV GOTOOLCHAIN=local
WORKDIR /src
COPY go.mod go.sum ./
COPY e2e/image/go.mod e2e/image/go.sum ./e2e/image/
RUN go mod download && go -C e2e/image mod download
COPY . .
ARG TARGETOS=linux
ARG TARGETARCH=amd64
ARG VERSION=dev
RUN go -C e2e/image run . rootfs -platform "$TARGETOS/$TARGETARCH" -version "$VERSION" -o /rootfs

FROM scratch
ARG VERSION=dev
LABEL org.opencontainers.image.title="ark" \
      org.opencontainers.image.description="Runs AI agents as Kubernetes resources" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION"
COPY --from=build /rootfs/ /
WORKDIR /
USER 65532:65532
ENTRYPOINT ["/ark"]
