package queue

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// reconnectFirst is the pause before a lost connection is tried again, doubled each time up to reconnectMost. The
	// latter is what an agent may be late by after a long outage.
	reconnectFirst = 50 * time.Millisecond
	reconnectMost  = time.Second
)

// Address says where a NATS server is and how to log in there.
type Address struct {
	URL string // or several with commas between them; tls:// insists on TLS, nats:// uses it when the server does
	// Credentials is a file with what the operator, or an administrator, has issued; without one nobody logs in.
	Credentials string
	// CA is a file of PEM certificates that alone may have signed the server's, and insists on TLS. Without one the
	// system's certificates count.
	CA string
}

// Connect opens a connection to a NATS server. It returns at once, also when the server cannot be reached or refuses
// the credentials: the connection is made in the background and tried again for ever, with growing pauses. Both files
// are read anew for every attempt, so that they can be replaced at any time: a connection whose credentials expire is
// cut off and comes back with the new ones. The error is of the URL or of a file that cannot be read. Whoever connects
// closes the connection.
func Connect(to Address, name string, logger *slog.Logger) (*nats.Conn, error) {
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
	if to.Credentials != "" {
		options = append(options, nats.UserCredentials(to.Credentials))
	}
	if to.CA != "" {
		options = append(options, nats.RootCAs(to.CA))
	}
	nc, err := nats.Connect(to.URL, options...)
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
