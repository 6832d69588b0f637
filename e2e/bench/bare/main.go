// Command bare is what `ark runtime` is compared with: a process with the same libraries in it that connects to a NATS
// server, says so, and does nothing until its standard input ends.
package main

import (
	"fmt"
	"io"
	"os"

	_ "github.com/anthropics/anthropic-sdk-go"
	_ "github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/mark3labs/mcp-go/client"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	_ "github.com/openai/openai-go/v3"
	_ "github.com/qdrant/go-client/qdrant"
	_ "github.com/redis/go-redis/v9"
	_ "go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	_ "go.opentelemetry.io/otel/exporters/prometheus"
)

func main() {
	nc, err := nats.Connect(os.Args[1])
	if err == nil {
		_, err = jetstream.New(nc)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bare:", err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stdout, "connected")
	_, _ = io.Copy(io.Discard, os.Stdin)
}
