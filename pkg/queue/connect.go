package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

const (
	// reconnectFirst is the pause before a lost connection is tried again, doubled each time up to reconnectMost. The
	// latter is what an agent may be late by after a long outage.
	reconnectFirst = 50 * time.Millisecond
	reconnectMost  = time.Second
)

// Connect opens a connection to the NATS server at url, which may name several servers with commas between them. It
// returns at once, also when the server cannot be reached or refuses the credentials: the connection is made in the
// background and tried again for ever, with growing pauses. credentials is a file, read anew for every attempt, or
// empty. The error is of the url or of a file that cannot be read. Whoever connects closes the connection.
func Connect(url, credentials, name string, logger *slog.Logger) (*nats.Conn, error) {
	options := append(ConnectOptions(name, logger),
		nats.RetryOnFailedConnect(true),
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
			logger.Debug("queue server cannot be reached, trying again", "connection", name, "error", err)
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			logger.Info("queue connection is back", "connection", name, "server", nc.ConnectedUrlRedacted())
		}),
	)
	if credentials != "" {
		options = append(options, nats.UserCredentials(credentials))
	}
	nc, err := nats.Connect(url, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to the queue server: %w", err)
	}
	return nc, nil
}

// ConnectOptions are the settings of every connection of ark: it reconnects for ever, keeps nothing for later while it
// is cut off (a publish fails at once instead), and notices a dead server within 20 s.
func ConnectOptions(name string, logger *slog.Logger) []nats.Option {
	return []nats.Option{
		nats.Name(name),
		nats.MaxReconnects(-1),
		nats.CustomReconnectDelay(reconnectDelay),
		nats.ReconnectBufSize(-1),
		nats.PingInterval(10 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			logger.Warn("queue connection", "connection", name, "error", err)
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				logger.Warn("queue connection lost", "connection", name, "error", err)
			}
		}),
	}
}

// reconnectDelay is the pause after so many failed attempts at all servers: exponential, at least half of it, the rest
// scattered, so that the agents of a cluster do not come back all at once.
func reconnectDelay(attempts int) time.Duration {
	d := reconnectFirst << min(max(attempts-1, 0), 10)
	d = min(d, reconnectMost)
	return d/2 + rand.N(d/2+1)
}

// Attach opens the streams that an operator, or whoever runs the work service, has made. It makes and changes nothing,
// and takes only Timeout and Logger of the configuration. The error is ErrUnavailable when the server cannot be reached
// or has not all of the streams. The connection stays the caller's.
func Attach(ctx context.Context, nc *nats.Conn, cfg Config) (*Queue, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(cfg.Timeout))
	if err != nil {
		return nil, fmt.Errorf("attach to the queue: %w", err)
	}
	q := &Queue{cfg: cfg, nc: nc, js: js}
	q.log = newLedger(q)
	ctx, cancel := q.bounded(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	for name, to := range map[string]*jetstream.Stream{
		StreamTasks: &q.tasks, StreamResults: &q.results, StreamLedger: &q.ledger, StreamPayloads: &q.payloads,
	} {
		g.Go(func() (err error) {
			*to, err = js.Stream(ctx, name)
			if errors.Is(err, jetstream.ErrStreamNotFound) {
				err = fmt.Errorf("there is no stream %s: is ark's operator running with this NATS server?", name)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("attach to the queue: %w: %w", ErrUnavailable, err)
	}
	return q, nil
}
