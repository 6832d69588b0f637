package operator

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/queue/identity"
)

// QueueConfig says where the queue is: embedded, with its store in a folder, or an external NATS.
type QueueConfig struct {
	// Store is the folder of the embedded server's streams; StoreBytes is what they may take, 0 for the default.
	Store      string
	StoreBytes int64
	// Listen is the address of the embedded server's port, Advertise where agents reach it, such as
	// tls://ark-nats.ark-system.svc:4222.
	Listen, Advertise string
	// URL of an external NATS with JetStream, or several with commas between them; then nothing is embedded. Credentials
	// and CA are files, or empty. AgentCredentials is the file that agents get, the operator's own if empty.
	URL, Credentials, AgentCredentials, CA string
	// Replicas of the streams in an external NATS.
	Replicas int
}

func (c *QueueConfig) validate() error {
	switch {
	case c.Store == "" && c.URL == "":
		return errors.New("operator: the queue needs a Store folder or the URL of an external NATS")
	case c.Store != "" && c.URL != "":
		return errors.New("operator: the queue has both a Store folder and the URL of an external NATS: give one")
	case c.URL == "" && c.Listen != "" && c.Advertise == "":
		return errNoAdvertise
	case c.StoreBytes < 0:
		return fmt.Errorf("operator: StoreBytes: %d is negative", c.StoreBytes)
	case c.URL != "":
		return checkURL(c.URL)
	default:
		return nil
	}
}

// queueParts is the queue and what has to be closed with it.
type queueParts struct {
	*queue.Queue
	conn   *nats.Conn
	agents *nats.Conn    // takes in what agents send
	server *queue.Server // nil with an external NATS
	keys   *keys         // nil with an external NATS
	access func(agent identity.Agent, current []byte) (access, error)
}

func (p *queueParts) close() {
	if p.server != nil {
		p.server.Shutdown()
		return
	}
	p.conn.Close()
	p.agents.Close()
}

// openQueue starts the embedded queue, or connects to an external one. waiting is told what it waits for meanwhile.
func openQueue(ctx context.Context, cfg *Config, waiting func(string)) (*queueParts, error) {
	var p *queueParts
	var err error
	if cfg.Queue.URL != "" {
		p, err = join(ctx, cfg, waiting)
	} else {
		p, err = embed(ctx, cfg)
	}
	if err != nil {
		return nil, fmt.Errorf("operator: %w", err)
	}
	c := queue.Config{Storage: jetstream.FileStorage, Agents: p.agents, Replicas: cfg.Queue.Replicas, Logger: cfg.Logger}
	if cfg.Queue.StoreBytes > 0 {
		c.Limits = queue.LimitsOf(cfg.Queue.StoreBytes)
	}
	if p.server != nil {
		c.ConsumerKey = p.server.ConsumerKey()
	}
	if p.Queue, err = queue.Open(ctx, p.conn, c); err != nil {
		p.close()
		return nil, fmt.Errorf("operator: %w", err)
	}
	return p, nil
}

// Names of the connections.
const (
	connectionName = "ark operator"
	agentsName     = "ark operator, for agents"
)

// embed starts the embedded server.
func embed(ctx context.Context, cfg *Config) (*queueParts, error) {
	k, err := openKeys(ctx, cfg)
	if err != nil {
		return nil, err
	}
	authority, _ := k.current()
	server, err := queue.StartServer(ctx, queue.ServerConfig{
		StoreDir: cfg.Queue.Store, SyncAlways: true, Logger: cfg.Logger,
		Authority: authority, Listen: cfg.Queue.Listen, Certificate: k.cert,
	})
	if err != nil {
		return nil, err
	}
	conn, err := server.Connect(connectionName)
	agents, err2 := server.Connect(agentsName)
	if err := errors.Join(err, err2); err != nil {
		server.Shutdown()
		return nil, err
	}
	return &queueParts{conn: conn, agents: agents, server: server, keys: k, access: k.access}, nil
}
