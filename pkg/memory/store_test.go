package memory

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"arkonis.dev/ark/e2e/services"
	"arkonis.dev/ark/pkg/llm/mock"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

func vectorEntry(text string) Entry {
	return Entry{ID: entryID("task", text), Kind: KindNote, Text: text, Vector: mock.Vector(text, 0)}
}

func texts(t *testing.T, s Store, session string, like []float32, n int) []string {
	t.Helper()
	found, err := s.Find(t.Context(), session, like, n)
	require.NoError(t, err)
	out := []string{}
	for _, e := range found {
		require.Equal(t, entryID("task", e.Text), e.ID)
		require.Equal(t, KindNote, e.Kind)
		require.WithinDuration(t, time.Now(), e.At, time.Minute)
		require.Equal(t, time.UTC, e.At.Location())
		out = append(out, e.Text)
	}
	return out
}

// kindOfStore is one implementation. Its stores share what they keep.
type kindOfStore struct {
	open    func(*testing.T) func(*testing.T) Store
	vectors bool
	one     bool // has no sessions: it is that of one task
}

func kindsOfStores() map[string]kindOfStore {
	return map[string]kindOfStore{
		"in-context": {one: true, open: func(*testing.T) func(*testing.T) Store {
			s := newNotes()
			return func(*testing.T) Store { return s }
		}},
		"nats": {one: true, open: func(t *testing.T) func(*testing.T) Store {
			w := newWorld(t)
			return func(*testing.T) Store { return natsStore{session: w.take()} }
		}},
		"redis": {open: func(t *testing.T) func(*testing.T) Store {
			server := services.StartRedis(t)
			return func(t *testing.T) Store { return openRedis(t, Config{Redis: RedisConfig{URL: server.URL()}}) }
		}},
		"pgvector": {vectors: true, open: func(t *testing.T) func(*testing.T) Store {
			endpoint := services.Database(t, true)
			return func(t *testing.T) Store { return openPgvector(t, pgvectorOn(endpoint)) }
		}},
		"qdrant": {vectors: true, open: func(t *testing.T) func(*testing.T) Store {
			_, endpoint := startQdrant(t)
			return func(t *testing.T) Store { return openQdrant(t, qdrantOn(endpoint)) }
		}},
	}
}

func openRedis(t *testing.T, c Config) *redisStore {
	t.Helper()
	c.Backend = Redis
	s, err := newRedis(c.withDefaults())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.close()) })
	return s
}

func pgvectorOn(endpoint string) Config {
	return Config{
		Backend:   VectorStore,
		Vector:    VectorConfig{Provider: Pgvector, Endpoint: endpoint, Secret: services.PostgresSecret},
		Embedding: EmbeddingConfig{Model: "mock"},
	}.withDefaults()
}

func openPgvector(t *testing.T, c Config) *pgvectorStore {
	t.Helper()
	s, err := newPgvector(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.close()) })
	return s
}

// world is a work service on a real queue, for tasks of one agent.
type world struct {
	t      *testing.T
	queue  *queue.Queue
	client *work.Client
	stop   func()
	tasks  int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	server, err := queue.StartServer(t.Context(), queue.ServerConfig{Logger: quiet()})
	require.NoError(t, err)
	t.Cleanup(server.Shutdown)
	nc, err := server.Connect("test")
	require.NoError(t, err)
	q, err := queue.Open(t.Context(), nc, queue.Config{Storage: jetstream.MemoryStorage, Logger: quiet()})
	require.NoError(t, err)
	w := &world{t: t, queue: q, client: work.NewClient(nc)}
	w.serve()
	return w
}

func (w *world) serve() {
	w.t.Helper()
	s, err := work.NewService(w.queue, w.queue.Conn(), work.Config{Logger: quiet()})
	require.NoError(w.t, err)
	ctx, cancel := contextOf(w.t)
	ended := make(chan error, 1)
	go func() {
		ended <- s.Run(ctx)
		close(ended)
	}()
	require.NoError(w.t, s.Ready(w.t.Context()))
	w.stop = func() {
		cancel()
		require.NoError(w.t, <-ended)
	}
	w.t.Cleanup(w.stop)
}

// take submits the next task and takes it over.
func (w *world) take() *work.Session {
	w.t.Helper()
	w.tasks++
	t := aTask(w.tasks)
	require.NoError(w.t, w.queue.Submit(w.t.Context(), t))
	s, err := w.client.TakeOver(w.t.Context(), queue.KeyOf(t), "pod-0", 0)
	require.NoError(w.t, err)
	return s
}

// aTask is the n-th task of an agent, in a run of its own.
func aTask(n int) *task.Task {
	now := time.Now().UTC()
	uid := fmt.Sprint("run-", n)
	return &task.Task{
		Version: task.Version, ID: task.ID(task.KindStep, uid, "write", 0, 0, 0), Kind: task.KindStep,
		Namespace: "default", Agent: "writer", Run: task.Run{UID: uid, Name: uid, Team: "crew"},
		Step: "write", Prompt: task.Text{Inline: "write"}, Created: now, Deadline: now.Add(time.Hour),
	}
}

func TestStores(t *testing.T) {
	t.Parallel()
	for name, kind := range kindsOfStores() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			open := kind.open(t)
			s := open(t)
			require.Empty(t, texts(t, s, "a", nil, 5), "nothing is remembered yet")

			for _, text := range []string{"the harbour closes at dusk", "tomatoes need sun", "ships wait outside the harbour"} {
				require.NoError(t, s.Put(t.Context(), "a", vectorEntry(text)))
			}
			require.Equal(t, []string{"ships wait outside the harbour", "tomatoes need sun", "the harbour closes at dusk"}, texts(t, s, "a", nil, 5))
			require.Equal(t, []string{"ships wait outside the harbour"}, texts(t, s, "a", nil, 1))
			require.Empty(t, texts(t, s, "a", nil, 0))

			again := open(t)
			require.Len(t, texts(t, again, "a", nil, 5), 3, "other tasks see it")
			require.NoError(t, again.Put(t.Context(), "a", vectorEntry("tomatoes need sun")))
			require.Len(t, texts(t, s, "a", nil, 5), 3, "the same entry is stored once")

			changed := vectorEntry("tomatoes need sun")
			changed.Text = "tomatoes need much sun"
			require.NoError(t, s.Put(t.Context(), "a", changed))
			found, err := s.Find(t.Context(), "a", nil, 5)
			require.NoError(t, err)
			require.Len(t, found, 3)
			require.Equal(t, "tomatoes need much sun", found[0].Text)

			odd := vectorEntry(`quotes " ' \ , new` + "\n" + `lines, $1, %s, {}, 日本語` + strings.Repeat("x", 6000))
			require.NoError(t, s.Put(t.Context(), "a", odd))
			require.Equal(t, []string{odd.Text}, texts(t, s, "a", nil, 1))

			if kind.one {
				return
			}
			require.Empty(t, texts(t, s, "b", nil, 5), "sessions are apart")
			require.NoError(t, s.Put(t.Context(), "b", vectorEntry("the harbour closes at dusk")))
			require.Len(t, texts(t, s, "b", nil, 5), 1)
			found, err = s.Find(t.Context(), "a", nil, 5)
			require.NoError(t, err)
			require.Len(t, found, 4, "also those with the same id")
		})
	}
}

func TestVectorStoresFindWhatIsAlike(t *testing.T) {
	t.Parallel()
	for name, kind := range kindsOfStores() {
		if !kind.vectors {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := kind.open(t)(t)
			for _, text := range []string{"the harbour closes at dusk", "tomatoes need sun", "rust compiles slowly", "basil needs water and sun"} {
				require.NoError(t, s.Put(t.Context(), "a", vectorEntry(text)))
			}
			require.NoError(t, s.Put(t.Context(), "b", vectorEntry("when does the harbour close")))
			require.Equal(t, []string{"the harbour closes at dusk"}, texts(t, s, "a", mock.Vector("when does the harbour close?", 0), 1))
			require.ElementsMatch(t, []string{"tomatoes need sun", "basil needs water and sun"},
				texts(t, s, "a", mock.Vector("which plants need the sun", 0), 2))
		})
	}
}

func TestStoresKeepAllThatIsWrittenAtOnce(t *testing.T) {
	t.Parallel()
	const writers, each = 6, 10
	for name, kind := range kindsOfStores() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			open := kind.open(t)
			var stores []Store
			for range writers {
				stores = append(stores, open(t))
			}
			var g errgroup.Group
			for w, s := range stores {
				g.Go(func() error {
					for i := range each {
						if err := s.Put(t.Context(), "a", vectorEntry(fmt.Sprintf("entry %d of writer %d", i, w))); err != nil {
							return err
						}
					}
					return nil
				})
			}
			require.NoError(t, g.Wait())
			require.Len(t, texts(t, stores[0], "a", nil, 1000), writers*each)
		})
	}
}
