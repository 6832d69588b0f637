package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"arkonis.dev/ark/pkg/queue"
)

// QueueConfig says where the queue is: embedded, with its store in a folder, or an external NATS.
type QueueConfig struct {
	// Store is the folder of the embedded server's streams; StoreBytes is what they may take, 0 for the default.
	Store      string
	StoreBytes int64
	// URL of an external NATS with JetStream; then nothing is embedded. Credentials is a file, or empty.
	URL, Credentials string
	// Replicas of the streams in an external NATS.
	Replicas int
}

func (c *QueueConfig) validate() error {
	switch {
	case c.Store == "" && c.URL == "":
		return errors.New("operator: the queue needs a Store folder or the URL of an external NATS")
	case c.Store != "" && c.URL != "":
		return errors.New("operator: the queue has both a Store folder and the URL of an external NATS: give one")
	case c.StoreBytes < 0:
		return fmt.Errorf("operator: StoreBytes: %d is negative", c.StoreBytes)
	default:
		return nil
	}
}

// queueParts is the queue and what has to be closed with it.
type queueParts struct {
	*queue.Queue
	conn   *nats.Conn
	server *queue.Server // nil with an external NATS
}

func (p *queueParts) close() {
	if p.server != nil {
		p.server.Shutdown()
		return
	}
	p.conn.Close()
}

func openQueue(ctx context.Context, cfg *Config) (*queueParts, error) {
	p, err := connectQueue(ctx, cfg.Queue, cfg.Logger)
	if err != nil {
		return nil, fmt.Errorf("operator: %w", err)
	}
	c := queue.Config{Storage: jetstream.FileStorage, Replicas: cfg.Queue.Replicas, Logger: cfg.Logger}
	if cfg.Queue.StoreBytes > 0 {
		c.Limits = queue.LimitsOf(cfg.Queue.StoreBytes)
	}
	if p.Queue, err = queue.Open(ctx, p.conn, c); err != nil {
		p.close()
		return nil, fmt.Errorf("operator: %w", err)
	}
	return p, nil
}

func connectQueue(ctx context.Context, c QueueConfig, log *slog.Logger) (*queueParts, error) {
	const name = "ark operator"
	if c.URL != "" {
		conn, err := queue.Connect(queue.Address{URL: c.URL, Credentials: c.Credentials}, name, log)
		if err != nil {
			return nil, err
		}
		return &queueParts{conn: conn}, nil
	}
	server, err := queue.StartServer(ctx, queue.ServerConfig{StoreDir: c.Store, SyncAlways: true, Logger: log})
	if err != nil {
		return nil, err
	}
	conn, err := server.Connect(name)
	if err != nil {
		server.Shutdown()
		return nil, err
	}
	return &queueParts{conn: conn, server: server}, nil
}
