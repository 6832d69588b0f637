package local

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
)

// raw is the reference of the benchmarks: what one step writes and hands over, on bare JetStream in this process, with
// bodies of the same size and without anything of ark. A step is
//
//	write the task -> pull -> ask the keeper of the ledger, who writes the take-over -> ask it, it writes the promise
//	-> ask it, it writes the answer -> write the result -> acknowledge twice -> the reader of results has it
//
// which is five stored messages, one acknowledged message and six hand-overs.
type raw struct {
	js      jetstream.JetStream
	nc      *nats.Conn
	waiting map[string]chan time.Time
	body    []byte
}

// Sizes of the bodies as they are in a step with a short prompt, in bytes.
const rawBody = 600

func newRaw(b *testing.B, store string, chains int) *raw {
	b.Helper()
	ctx, stop := context.WithCancel(b.Context())
	s, err := queue.StartServer(ctx, queue.ServerConfig{StoreDir: store, SyncAlways: store != ""})
	require.NoError(b, err)
	b.Cleanup(func() { stop(); s.Shutdown() })
	nc, err := s.Connect("raw")
	require.NoError(b, err)
	r := &raw{nc: nc, waiting: map[string]chan time.Time{}, body: make([]byte, rawBody)}
	r.js, err = jetstream.New(nc)
	require.NoError(b, err)
	for i := range chains {
		r.waiting[strconv.Itoa(i)] = make(chan time.Time, 1)
	}
	storage := jetstream.MemoryStorage
	if store != "" {
		storage = jetstream.FileStorage
	}
	for name, c := range map[string]jetstream.StreamConfig{
		"TASKS":   {Retention: jetstream.WorkQueuePolicy, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true},
		"LEDGER":  {},
		"RESULTS": {MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true},
	} {
		c.Name, c.Subjects, c.Storage = name, []string{name + ".>"}, storage
		_, err := r.js.CreateStream(ctx, c)
		require.NoError(b, err)
	}
	require.NoError(b, r.keeper(s))
	require.NoError(b, r.worker(ctx, s, chains))
	require.NoError(b, r.reader(ctx))
	return r
}

// keeper answers requests after it wrote them to the ledger.
func (r *raw) keeper(s *queue.Server) error {
	nc, err := s.Connect("keeper")
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	requests := make(chan *nats.Msg, 1024)
	if _, err := nc.ChanSubscribe("keep", requests); err != nil {
		return err
	}
	go func() {
		for m := range requests {
			if _, err := js.Publish(context.Background(), "LEDGER.log", m.Data); err != nil {
				return
			}
			_ = m.Respond(nil)
		}
	}()
	return nil
}

// worker pulls tasks, as many at once as there are chains.
func (r *raw) worker(ctx context.Context, s *queue.Server, chains int) error {
	nc, err := s.Connect("worker")
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	c, err := js.CreateConsumer(ctx, "TASKS", jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: -1})
	if err != nil {
		return err
	}
	tasks, err := c.Messages(jetstream.PullMaxMessages(chains))
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, tasks.Stop)
	go func() {
		for {
			m, err := tasks.Next()
			if err != nil {
				return
			}
			go r.work(ctx, nc, js, m)
		}
	}()
	return nil
}

func (r *raw) work(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, m jetstream.Msg) {
	for range 3 { // take-over, promise, answer
		if _, err := nc.Request("keep", r.body, 10*time.Second); err != nil {
			return
		}
	}
	if _, err := js.Publish(ctx, "RESULTS"+m.Subject()[len("TASKS"):], r.body); err != nil {
		return
	}
	_ = m.DoubleAck(ctx)
}

// reader hands results to the chains that wait for them.
func (r *raw) reader(ctx context.Context) error {
	c, err := r.js.OrderedConsumer(ctx, "RESULTS", jetstream.OrderedConsumerConfig{})
	if err != nil {
		return err
	}
	running, err := c.Consume(func(m jetstream.Msg) {
		chain, _, _ := strings.Cut(strings.TrimPrefix(m.Subject(), "RESULTS."), ".")
		r.waiting[chain] <- time.Now()
	})
	if err == nil {
		context.AfterFunc(ctx, running.Stop)
	}
	return err
}

var errRaw = errors.New("the reference stands still")

// steps makes n steps of one chain, one after another, and returns when each was done.
func (r *raw) steps(ctx context.Context, chain int, name string, n int) ([]time.Time, error) {
	id := strconv.Itoa(chain)
	done := []time.Time{time.Now()}
	for i := range n {
		if _, err := r.js.Publish(ctx, fmt.Sprintf("TASKS.%s.%s-%d", id, name, i), r.body); err != nil {
			return nil, err
		}
		select {
		case at := <-r.waiting[id]:
			done = append(done, at)
		case <-time.After(10 * time.Second):
			return nil, errRaw
		}
	}
	return done, nil
}
