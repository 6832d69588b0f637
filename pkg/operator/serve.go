package operator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	headerTimeout = 5 * time.Second
	closeTimeout  = time.Second
)

// serve answers probes and metrics until stop is called.
func (o *Operator) serve(ctx context.Context) (stop func(), err error) {
	if o.cfg.Listen == "" {
		return func() {}, nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("operator: listen for probes and metrics on %s: %w", o.cfg.Listen, err)
	}
	o.log.InfoContext(ctx, "answering probes", "address", l.Addr().String())
	server := &http.Server{Handler: o.handler(), ReadHeaderTimeout: headerTimeout, IdleTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			o.log.ErrorContext(ctx, "probes are answered no more", "error", err)
		}
	}()
	return func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if server.Shutdown(closing) != nil {
			_ = server.Close()
		}
		<-done
	}, nil
}

func (o *Operator) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := o.Ready(); err != nil {
			text := err.Error()
			if kinds := o.cache.Unsynced(); len(kinds) > 0 && o.leading.Load() {
				text += ": " + strings.Join(kinds, ", ")
			}
			http.Error(w, text, http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.Handle("GET /metrics", o.cfg.Telemetry.Metrics())
	return mux
}
