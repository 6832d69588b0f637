package telemetry

import (
	"context"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
)

// startMetrics sends metrics to an OTLP endpoint, keeps them to be scraped, or both.
func (t *Telemetry) startMetrics(ctx context.Context, c Config, res *resource.Resource) (*sdkmetric.MeterProvider, error) {
	options := []sdkmetric.Option{sdkmetric.WithResource(res)}
	if c.Metrics != Off {
		reader, err := metricReader(ctx, c.Metrics)
		if err != nil {
			return nil, err
		}
		options = append(options, sdkmetric.WithReader(reader))
	}
	if c.Scrape {
		registry := prometheus.NewRegistry()
		registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
		reader, err := exporter.New(exporter.WithRegisterer(registry))
		if err != nil {
			return nil, fmt.Errorf("set up the metrics that are scraped: %w", err)
		}
		options = append(options, sdkmetric.WithReader(reader))
		t.scrape = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	}
	provider := sdkmetric.NewMeterProvider(options...)
	t.shutdown = append(t.shutdown, provider.Shutdown)
	return provider, nil
}

// Metrics answers with the metrics in Prometheus' form, or with 404 unless Config.Scrape asked for them.
func (t *Telemetry) Metrics() http.Handler {
	if t == nil || t.scrape == nil {
		return http.NotFoundHandler()
	}
	return t.scrape
}
