package exchange

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

var (
	// ErrTooMuch says that an answer is above its bounds.
	ErrTooMuch = errors.New("the answer is larger than answers may be")

	errIdle    = errors.New("the server was silent for too long")
	errEncoded = errors.New("the answer is encoded in a way that was not asked for")
)

// watchdog cancels a call whose server says nothing for a while.
type watchdog struct {
	timer  *time.Timer
	cancel context.CancelCauseFunc
	limit  time.Duration
}

// watch starts a watchdog. Its owner calls stop.
func watch(ctx context.Context, limit time.Duration) (context.Context, *watchdog) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, &watchdog{timer: time.AfterFunc(limit, func() { cancel(errIdle) }), cancel: cancel, limit: limit}
}

// alive starts the time anew.
func (w *watchdog) alive() { w.timer.Reset(w.limit) }

// pause stops the time until it is started anew.
func (w *watchdog) pause() { w.timer.Stop() }

// tighten makes the limit shorter from now on.
func (w *watchdog) tighten(limit time.Duration) {
	if limit < w.limit {
		w.limit = limit
		w.timer.Reset(limit)
	}
}

func (w *watchdog) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// body reads a response: bounded, decompressed, watched. Whoever reads it may raise what is left of its bound.
type body struct {
	r    io.Reader
	left int64
}

func newBody(res *http.Response, limit int64, dog *watchdog) (*body, error) {
	b := &body{r: &watched{r: res.Body, dog: dog}, left: limit}
	switch enc := strings.ToLower(strings.TrimSpace(res.Header.Get("Content-Encoding"))); enc {
	case "", "identity":
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(b.r)
		if err != nil {
			return nil, fmt.Errorf("read gzip: %w", err)
		}
		b.r = z
	default:
		return nil, fmt.Errorf("%w: %.40q", errEncoded, enc)
	}
	return b, nil
}

func (b *body) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, &Excess{Of: fmt.Sprintf("%d MiB that are no part of an answer", maxBody>>20)}
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// watched tells the watchdog about every byte that the network brings.
type watched struct {
	r   io.Reader
	dog *watchdog
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if n > 0 {
		w.dog.alive()
	}
	return n, err
}
