package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/queue/identity"
)

const (
	// leastMajor and leastMinor are the first version of NATS with what ark needs: atomic publishing.
	leastMajor, leastMinor = 2, 12
	// externalNews is how often it is said that an external NATS is still waited for.
	externalNews = 30 * time.Second
	// externalRenew is how often an agent's copy of the administrator's credentials is compared with them.
	externalRenew = time.Minute
)

// checkURL refuses an address with a password in it: agents' pods show the address to whoever may see them.
func checkURL(addresses string) error {
	for one := range strings.SplitSeq(addresses, ",") {
		u, err := url.Parse(strings.TrimSpace(one))
		if err != nil || u.Host == "" {
			return errors.New("operator: the URL of the external NATS: give addresses such as nats://nats.example:4222, with commas between them")
		}
		if u.User != nil {
			return fmt.Errorf("operator: the URL of the external NATS has a user or a token in it, which every agent's pod would show: "+
				"give %s://%s and a file of credentials", u.Scheme, u.Host)
		}
	}
	return nil
}

// join connects to an external NATS, waits for it for as long as that takes, and refuses one that ark cannot work with.
func join(ctx context.Context, cfg *Config, waiting func(string)) (*queueParts, error) {
	q := &cfg.Queue
	address := queue.Address{URL: q.URL, Credentials: q.Credentials, CA: q.CA}
	conn, err := queue.Connect(address, connectionName, cfg.Logger)
	if err != nil {
		return nil, err
	}
	forAgents, err := queue.Connect(address, agentsName, cfg.Logger)
	if err != nil {
		conn.Close()
		return nil, err
	}
	for _, nc := range []*nats.Conn{conn, forAgents} {
		if err == nil {
			err = connected(ctx, nc, q.URL, cfg.Logger, waiting)
		}
	}
	if err == nil {
		err = suits(ctx, conn)
	}
	if err != nil {
		conn.Close()
		forAgents.Close()
		return nil, fmt.Errorf("external NATS %s: %w", q.URL, err)
	}
	agents := external{url: q.URL, credentials: q.AgentCredentials, ca: q.CA}
	if agents.credentials == "" {
		agents.credentials = q.Credentials
	}
	return &queueParts{conn: conn, agents: forAgents, access: agents.access}, nil
}

// connected returns when there is a connection.
func connected(ctx context.Context, conn *nats.Conn, address string, log *slog.Logger, waiting func(string)) error {
	changes := conn.StatusChanged(nats.CONNECTED)
	defer conn.RemoveStatusListener(changes)
	news := time.NewTicker(externalNews)
	defer news.Stop()
	for first := true; !conn.IsConnected(); first = false {
		cause := "it cannot be reached"
		if err := conn.LastError(); err != nil {
			cause = err.Error()
		}
		waiting("there is no connection to the external NATS " + address + ": " + cause)
		if !first {
			log.WarnContext(ctx, "the external NATS is waited for: does it run, and does it let these credentials in?", "address", address, "error", cause)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changes:
		case <-news.C:
		}
	}
	return nil
}

// suits says what a NATS lacks that ark needs.
func suits(ctx context.Context, conn *nats.Conn) error {
	version := conn.ConnectedServerVersion()
	if !atLeast(version, leastMajor, leastMinor) {
		return fmt.Errorf("its version is %s: ark needs %d.%d or a newer one, which can publish several messages atomically", version, leastMajor, leastMinor)
	}
	if got := conn.MaxPayload(); got < queue.DefaultMaxPayload {
		return fmt.Errorf("its max_payload is %d bytes: ark needs %d at least", got, queue.DefaultMaxPayload)
	}
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	switch _, err = js.AccountInfo(ctx); {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("%w: enable it in the server and for the account of these credentials", err)
	case errors.Is(err, nats.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("JetStream does not answer: may these credentials use $JS.API.> and _INBOX.>? (%w)", err)
	default:
		return err
	}
}

// atLeast compares a version such as 2.12.3 or 2.12.0-RC.1.
func atLeast(version string, major, minor int) bool {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) < 2 {
		return false
	}
	a, err := strconv.Atoi(parts[0])
	if err != nil {
		return false
	}
	b, err := strconv.Atoi(parts[1])
	return err == nil && (a > major || a == major && b >= minor)
}

// external is how agents reach a NATS that is not ark's own: with what its administrator has given the operator for
// them, all with the same. It keeps them apart no further than that administrator does.
type external struct{ url, credentials, ca string }

func (e external) access(identity.Agent, []byte) (access, error) {
	a := access{URL: e.url}
	for file, to := range map[string]*[]byte{e.credentials: &a.Credentials, e.ca: &a.CA} {
		if file == "" {
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return access{}, fmt.Errorf("credentials for the external NATS: %w", err)
		}
		*to = data
		a.RenewAt = time.Now().Add(externalRenew)
	}
	return a, nil
}
