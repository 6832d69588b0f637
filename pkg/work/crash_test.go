package work_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

// breaker cuts a connection at the n-th message that stores something, before it is sent or right after, so that its
// sender never learns what became of it.
type breaker struct {
	ns     *server.Server
	at     int
	before bool

	mu   sync.Mutex
	seen int
}

var storing = regexp.MustCompile(`PUB (ark\.(ledger|delegated|task|payload)\.\S*)`)

// count says where in b the message is that the connection is cut at.
func (b *breaker) count(data []byte) (at int, cut bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, place := range storing.FindAllIndex(data, -1) {
		if b.seen++; b.seen == b.at {
			return bytes.LastIndexByte(data[:place[0]], '\n') + 1, true
		}
	}
	return 0, false
}

func (b *breaker) InProcessConn() (net.Conn, error) {
	c, err := b.ns.InProcessConn()
	return &brittle{Conn: c, breaker: b}, err
}

// brittle is a connection with a breaker.
type brittle struct {
	net.Conn
	breaker *breaker
}

func (c *brittle) Write(data []byte) (int, error) {
	at, cut := c.breaker.count(data)
	if !cut {
		return c.Conn.Write(data)
	}
	if !c.breaker.before {
		at = len(data)
	}
	n, err := c.Conn.Write(data[:at])
	_ = c.Close()
	if err == nil {
		err = net.ErrClosed
	}
	return n, err
}

// crashWorld is a server whose services die at a chosen effect.
type crashWorld struct {
	t       *testing.T
	ns      *server.Server
	breaker *breaker
	world   *world
}

func newCrashWorld(t *testing.T, at int, before bool) *crashWorld {
	t.Helper()
	ns, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, JetStream: true, JetStreamMaxStore: 1 << 40, StoreDir: t.TempDir()})
	require.NoError(t, err)
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	require.True(t, ns.ReadyForConnections(patience))
	c := &crashWorld{t: t, ns: ns, breaker: &breaker{ns: ns, at: at, before: before}}
	c.world = &world{tb: t, queue: c.open(c.connect(ns)), client: work.NewImpatientClient(c.connect(ns), 400*time.Millisecond)}
	return c
}

func (c *crashWorld) connect(to nats.InProcessConnProvider, options ...nats.Option) *nats.Conn {
	c.t.Helper()
	nc, err := nats.Connect("", append(options, nats.InProcessServer(to), nats.NoReconnect(), nats.ErrorHandler(nil))...)
	require.NoError(c.t, err)
	c.t.Cleanup(nc.Close)
	return nc
}

func (c *crashWorld) open(nc *nats.Conn) *queue.Queue {
	c.t.Helper()
	q, err := queue.Open(c.t.Context(), nc, queue.Config{Storage: jetstream.MemoryStorage, Logger: quiet(), Limits: queue.LimitsOf(256 << 20), Timeout: time.Minute})
	require.NoError(c.t, err)
	return q
}

// serve runs services one after the other: the first dies at the breaker, the next one follows it. died says whether
// it did.
func (c *crashWorld) serve() (died func() bool) {
	c.t.Helper()
	cut := make(chan struct{})
	nc := c.connect(c.breaker, nats.ClosedHandler(func(*nats.Conn) { close(cut) }))
	first, stop := c.start(nc)
	ended := make(chan bool, 1)
	go func() {
		defer stop()
		select {
		case <-cut:
			stop()
			good := c.connect(c.ns)
			_, end := c.start(good)
			defer end()
			ended <- true
			<-c.t.Context().Done()
		case <-c.t.Context().Done():
			ended <- false
		}
	}()
	require.NoError(c.t, first.Ready(c.t.Context()))
	return func() bool {
		select {
		case <-cut:
			return <-ended
		default:
			return false
		}
	}
}

func (c *crashWorld) start(nc *nats.Conn) (*work.Service, func()) {
	s, err := work.NewService(c.open(nc), nc, work.Config{Logger: quiet()})
	require.NoError(c.t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx)
	}()
	return s, func() {
		cancel()
		<-done
	}
}

// story is one task from its take-over to its end, through every kind of request that stores something.
func (c *crashWorld) story() (parent *task.Task, child *task.Task, big task.Text) {
	c.t.Helper()
	w := c.world
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	parent = w.lead()
	w.submit(parent)
	s, err := w.client.TakeOver(ctx, queue.KeyOf(parent), "pod-0", 0)
	require.NoError(c.t, err)
	appends(c.t, s, intent(1, 100))
	appends(c.t, s, answer(1, 40), started("1.0"))
	child, err = s.Delegate(ctx, "1.0", "critic", strings.Repeat("judge ", 10<<10))
	require.NoError(c.t, err)
	big, err = s.PutPayload(ctx, string(noise(700<<10)))
	require.NoError(c.t, err)
	appends(c.t, s, toolEnd("1.0", strings.Repeat("long ", 10<<10)), intent(2, 100))
	appends(c.t, s, failed(2, 5), intent(3, 60))
	require.NoError(c.t, s.Release(ctx))
	again, err := w.client.TakeOver(ctx, queue.KeyOf(parent), "pod-1", 0)
	require.NoError(c.t, err)
	require.Len(c.t, again.Journal(), 8)
	appends(c.t, again, intent(4, 10), work.Entry{Note: "the end"})
	appends(c.t, again, answer(4, 10))
	return parent, child, big
}

// effects is how many messages that store something a story sends.
const effects = 21

// The state after a crash at any effect is that of a life without one: nothing is lost, nothing is done or paid for
// twice, and the client only notices that it took longer.
func TestCrashBetweenAnyTwoEffects(t *testing.T) {
	t.Parallel()
	for at := 1; at <= effects+1; at++ {
		for _, before := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d-%v", at, before), func(t *testing.T) {
				t.Parallel()
				c := newCrashWorld(t, at, before)
				died := c.serve()
				parent, child, big := c.story()
				require.Equal(t, at <= effects, died())
				c.check(parent, child, big)
			})
		}
	}
}

func (c *crashWorld) check(parent, child *task.Task, big task.Text) {
	c.t.Helper()
	w := c.world
	w.stands("run.run-1", 115, 0)
	w.stands("step.run-1.draft", 115, 0)
	last, err := w.takeAgain(parent)
	require.NoError(c.t, err)
	require.Equal(c.t, 3, last.TakeOvers())
	journal := last.Journal()
	require.Len(c.t, journal, 11)
	require.True(c.t, journal[7].Failed.Unknown)
	journal[7] = work.Entry{Note: "unknown"}
	require.Equal(c.t, []work.Entry{
		intent(1, 100), answer(1, 40), started("1.0"), toolEnd("1.0", strings.Repeat("long ", 10<<10)), intent(2, 100), failed(2, 5), intent(3, 60),
		{Note: "unknown"},
		intent(4, 10),
		{Note: "the end"},
		answer(4, 10),
	}, journal)
	require.Len(c.t, w.records(), 1)
	queued, err := w.queue.Task(c.t.Context(), "default", "crew-critic", child.ID)
	require.NoError(c.t, err)
	require.Equal(c.t, child, queued)
	part, err := last.GetPayload(c.t.Context(), *big.Ref, 699<<10, 1<<10)
	require.NoError(c.t, err)
	require.True(c.t, bytes.Equal(noise(700 << 10)[699<<10:], part))
}
