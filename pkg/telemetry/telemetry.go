// Package telemetry sets up what a process tells about itself: OpenTelemetry traces and metrics, and log lines.
//
// Without an OTLP endpoint and without a recorder everything is off: spans and instruments are OpenTelemetry's
// no-ops, and trace ids that arrive with a message still travel on and still stand in log lines. Nothing here is
// global: a process, or a test, has as many Telemetry values as it starts.
//
// Spans follow the GenAI semantic conventions of OpenTelemetry (gen_ai.*). Texts of prompts, answers, tool arguments
// and tool results are attached only when Config.Contents asks for it.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

// scope is the instrumentation scope of all of ark's spans and metrics.
const scope = "arkonis.dev/ark"

// Protocol is how an OTLP exporter speaks.
type Protocol string

// The protocols of OTLP that ark speaks; Off exports nothing.
const (
	Off  Protocol = ""
	HTTP Protocol = "http/protobuf"
	GRPC Protocol = "grpc"
)

// Config says what is told and to whom. The zero Config tells nothing.
type Config struct {
	// Service and Version name the process; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win.
	Service, Version string
	// Traces and Metrics switch the OTLP exporters on. Where they send to (endpoint, headers, certificates, time-outs)
	// the exporters read from the standard OTEL_EXPORTER_OTLP_* variables themselves.
	Traces, Metrics Protocol
	// Scrape keeps metrics, the process's own among them, to be read from Telemetry.Metrics.
	Scrape bool
	// Contents attaches prompts, answers, tool arguments and tool results to spans.
	Contents bool
	// Recorder, when set, also keeps every span in this process. All spans are then sampled.
	Recorder *Recorder
}

// ConfigFromEnv reads the OTEL_* variables through getenv. An endpoint switches its signal on, unless
// OTEL_SDK_DISABLED or the signal's exporter "none" switches it off. The error names the variable, what it holds and
// what is allowed.
func ConfigFromEnv(getenv func(string) string) (Config, error) {
	var c Config
	if getenv("OTEL_SDK_DISABLED") == "true" {
		return c, nil
	}
	var errTraces, errMetrics error
	c.Traces, errTraces = protocol(getenv, "TRACES")
	c.Metrics, errMetrics = protocol(getenv, "METRICS")
	switch v := getenv(captureContents); v {
	case "", "false":
	case "true":
		c.Contents = true
	default:
		return Config{}, fmt.Errorf("environment variable %s is %q: set it to true or false", captureContents, v)
	}
	return c, errors.Join(errTraces, errMetrics)
}

const captureContents = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"

func protocol(getenv func(string) string, signal string) (Protocol, error) {
	exporter := "OTEL_" + signal + "_EXPORTER"
	switch v := getenv(exporter); v {
	case "", "otlp":
	case "none":
		return Off, nil
	default:
		return Off, fmt.Errorf("environment variable %s is %q: ark exports otlp or none", exporter, v)
	}
	on := false
	for _, name := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_" + signal + "_ENDPOINT"} {
		v := getenv(name)
		if err := endpoint(v); err != nil {
			return Off, fmt.Errorf("environment variable %s is %q: %w", name, v, err)
		}
		on = on || v != ""
	}
	if !on {
		return Off, nil
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_" + signal + "_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		switch v := getenv(name); v {
		case "":
		case string(HTTP), string(GRPC):
			return Protocol(v), nil
		default:
			return Off, fmt.Errorf("environment variable %s is %q: allowed are %s and %s", name, v, HTTP, GRPC)
		}
	}
	return HTTP, nil
}

var errEndpoint = errors.New("set it to the URL of a collector, such as http://collector:4318")

// endpoint refuses what the exporters would leave out without a word, and then send to localhost.
func endpoint(v string) error {
	if v == "" {
		return nil
	}
	u, err := url.Parse(v)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return errEndpoint
	}
	return nil
}

// Telemetry starts spans and records metrics. All methods are safe for concurrent use, and on a nil Telemetry they
// do nothing.
type Telemetry struct {
	tracer   trace.Tracer
	meter    metric.Meter
	metrics  *instruments
	contents bool
	scrape   http.Handler // nil unless metrics are scraped
	shutdown []func(context.Context) error
}

// Start sets telemetry up. It makes no connection: an endpoint that cannot be reached costs spans, never work.
// Whoever starts it calls Shutdown.
func Start(ctx context.Context, c Config) (*Telemetry, error) {
	t := &Telemetry{tracer: tracenoop.NewTracerProvider().Tracer(scope), contents: c.Contents}
	meter := metric.Meter(metricnoop.NewMeterProvider().Meter(scope))
	if c.Traces != Off || c.Metrics != Off || c.Scrape || c.Recorder != nil {
		res, err := describe(ctx, c)
		if err != nil {
			return nil, err
		}
		if err := t.startTraces(ctx, c, res); err != nil {
			return nil, err
		}
		if c.Metrics != Off || c.Scrape {
			provider, err := t.startMetrics(ctx, c, res)
			if err != nil {
				return nil, errors.Join(err, t.Shutdown(ctx))
			}
			meter = provider.Meter(scope)
		}
	}
	t.meter = meter
	var err error
	if t.metrics, err = newInstruments(meter); err != nil {
		return nil, errors.Join(err, t.Shutdown(ctx))
	}
	return t, nil
}

func describe(ctx context.Context, c Config) (*resource.Resource, error) {
	res, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(attribute.String("service.name", c.Service), attribute.String("service.version", c.Version)),
		resource.WithFromEnv(),
	)
	if err != nil {
		return nil, fmt.Errorf("describe this process for telemetry (see OTEL_RESOURCE_ATTRIBUTES): %w", err)
	}
	return res, nil
}

func (t *Telemetry) startTraces(ctx context.Context, c Config, res *resource.Resource) error {
	options := []sdktrace.TracerProviderOption{sdktrace.WithResource(res), sdktrace.WithIDGenerator(ids{})}
	if c.Recorder != nil {
		options = append(options, sdktrace.WithSpanProcessor(c.Recorder), sdktrace.WithSampler(sdktrace.AlwaysSample()))
	}
	if c.Traces != Off {
		exporter, err := traceExporter(ctx, c.Traces)
		if err != nil {
			return err
		}
		options = append(options, sdktrace.WithBatcher(exporter, sdktrace.WithBatchTimeout(batchTimeout)))
	}
	if c.Recorder == nil && c.Traces == Off {
		return nil
	}
	provider := sdktrace.NewTracerProvider(options...)
	t.tracer = provider.Tracer(scope)
	t.shutdown = append(t.shutdown, provider.Shutdown)
	return nil
}

// batchTimeout is how long a span that has ended is held: what a process that is killed can lose.
const batchTimeout = time.Second

// Shutdown sends what is still held, as far as ctx allows, and stops. Spans that end later are lost.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	if t == nil {
		return nil
	}
	var errs []error
	for _, stop := range t.shutdown {
		errs = append(errs, stop(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("send the last telemetry: %w", err)
	}
	return nil
}

// Contents says whether prompts, answers and tool texts are wanted on spans.
func (t *Telemetry) Contents() bool { return t != nil && t.contents }

// Start starts a span below the one in ctx. End it with Span.End.
func (t *Telemetry) Start(ctx context.Context, name string, kind trace.SpanKind, attributes ...attribute.KeyValue) (context.Context, *Span) {
	if t == nil {
		return ctx, &Span{span: tracenoop.Span{}}
	}
	ctx, s := t.tracer.Start(ctx, name, trace.WithSpanKind(kind), trace.WithAttributes(attributes...)) //nolint:spancheck // Span.End ends it
	return ctx, &Span{span: s}                                                                         //nolint:spancheck // the same
}
