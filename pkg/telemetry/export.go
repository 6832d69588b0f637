package telemetry

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

func traceExporter(ctx context.Context, p Protocol) (exporter sdktrace.SpanExporter, err error) {
	switch p {
	case GRPC:
		exporter, err = otlptracegrpc.New(ctx)
	default:
		exporter, err = otlptracehttp.New(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("set up the trace exporter (see OTEL_EXPORTER_OTLP_ENDPOINT): %w", err)
	}
	return exporter, nil
}

func metricReader(ctx context.Context, p Protocol) (sdkmetric.Reader, error) {
	var exporter sdkmetric.Exporter
	var err error
	switch p {
	case GRPC:
		exporter, err = otlpmetricgrpc.New(ctx)
	default:
		exporter, err = otlpmetrichttp.New(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("set up the metrics exporter (see OTEL_EXPORTER_OTLP_ENDPOINT): %w", err)
	}
	return sdkmetric.NewPeriodicReader(exporter), nil
}
