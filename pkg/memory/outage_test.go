package memory

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/e2e/services"
	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/tools"
)

// watched makes a memory whose log is kept.
func watched(t *testing.T, c Config) (*Memory, *journal) {
	t.Helper()
	log := &journal{}
	m, err := New(t.Context(), c, log.logger())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m, log
}

// requireOutage uses a memory that does not work, and requires that this is visible and costs nothing.
func requireOutage(t *testing.T, m *Memory, log *journal, s *Session, cause string) {
	t.Helper()
	before := time.Now()
	opening := s.Open(t.Context(), "Go on.")
	require.Empty(t, opening.Text)
	require.Contains(t, opening.Note, "the agent's memory ("+string(m.config.Backend)+") could not be read, the task went without it: ")
	require.Contains(t, opening.Note, cause)
	for id, args := range map[string]string{RecallName: `{"query":"x"}`, RememberName: `{"text":"x"}`} {
		r := call(t, s, "1.0", id, args)
		require.True(t, r.IsError)
		require.Contains(t, r.Text, "the memory is not available now: ")
		require.True(t, strings.HasSuffix(r.Text, ". Go on without it."), r.Text)
	}
	s.Close(t.Context(), "Go on.", "Done.")(t.Context())
	require.Less(t, time.Since(before), time.Minute)

	status := m.Status()
	require.False(t, status.Healthy)
	require.Contains(t, status.Message, cause)
	require.Equal(t, 1, strings.Count(log.String(), "level=WARN"), "one line for an outage: %s", log)
	require.Contains(t, log.String(), "memory does not work, tasks go on without it")
}

func requireRecovery(t *testing.T, m *Memory, log *journal, s *Session) {
	t.Helper()
	require.Eventually(t, func() bool { return !call(t, s, "2.0", RememberName, `{"text":"back"}`).IsError },
		2*time.Minute, 50*time.Millisecond, "clients reconnect when they see fit")
	require.True(t, m.Status().Healthy)
	require.Empty(t, m.Status().Message)
	require.Equal(t, 1, strings.Count(log.String(), "memory works again"), log.String())
}

func TestOutageOfTheWorkService(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m, log := watched(t, Config{Rest: time.Nanosecond})
	s := m.For(w.take(), nil)
	require.False(t, call(t, s, "1.0", RememberName, `{"text":"one"}`).IsError)
	w.stop()
	requireOutage(t, m, log, s, "the work service cannot be reached")
	w.serve()
	requireRecovery(t, m, log, s)
	require.Len(t, recalled(t, s), 2)
}

func TestOutageOfRedis(t *testing.T) {
	t.Parallel()
	server := services.StartRedis(t)
	m, log := watched(t, Config{Backend: Redis, Redis: RedisConfig{URL: server.URL()}, Rest: time.Nanosecond})
	s := m.session(aTask(1), nil, nil)
	require.False(t, call(t, s, "1.0", RememberName, `{"text":"one"}`).IsError)
	server.Kill()
	requireOutage(t, m, log, s, "connection refused")
	server.Again()
	requireRecovery(t, m, log, s)
}

func TestOutageOfVectorStores(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]func(string) Config{
		"qdrant":   func(addr string) Config { return qdrantOn("http://" + addr) },
		"pgvector": func(addr string) Config { return pgvectorOn("postgres://ark@" + addr + "/db?sslmode=disable") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := c("127.0.0.1:1") // a port that the system gives to nobody
			config.Rest = time.Nanosecond
			m, log := watched(t, config)
			requireOutage(t, m, log, m.session(aTask(1), nil, (&models{}).embed), "connection refused")
		})
	}
}

// mute takes connections and says nothing.
func mute(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	var mu sync.Mutex
	var conns []net.Conn
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			_ = c.Close()
		}
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
		}
	}()
	return l.Addr().String()
}

func TestAStoreThatHangsCostsATaskOneTimeout(t *testing.T) {
	t.Parallel()
	server, endpoint := startQdrant(t)
	server.hang = true
	for name, c := range map[string]Config{
		"redis":            {Backend: Redis, Redis: RedisConfig{URL: "redis://" + mute(t)}},
		"pgvector":         pgvectorOn("postgres://ark@" + mute(t) + "/db?sslmode=disable"),
		"qdrant":           qdrantOn(endpoint),
		"qdrant, no hello": qdrantOn("http://" + mute(t)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.Timeout, c.Rest = 100*time.Millisecond, time.Hour
			m, log := watched(t, c)
			requireOutage(t, m, log, m.session(aTask(1), nil, (&models{}).embed), "no answer within 100ms")
			require.EqualValues(t, 1, m.Status().Failures, "the store rests after the first one")
		})
	}
}

func TestARestingStoreCostsNoVectors(t *testing.T) {
	t.Parallel()
	server, endpoint := startQdrant(t)
	server.hang = true
	c := qdrantOn(endpoint)
	c.Timeout, c.Rest = 50*time.Millisecond, time.Hour
	m, _ := watched(t, c)
	made := &models{}
	s := m.session(aTask(1), nil, made.embed)
	for range 5 {
		s.Open(t.Context(), "Go.")
		s.Close(t.Context(), "Go.", "Done.")(t.Context())
	}
	require.Len(t, made.keys, 1)
}

func TestAModelThatMakesNoVectorsIsAnOutage(t *testing.T) {
	t.Parallel()
	server, endpoint := startQdrant(t)
	c := qdrantOn(endpoint)
	c.Rest = time.Nanosecond
	m, log := watched(t, c)
	made := &models{err: &llm.Error{Code: task.CodeProviderFailed, Message: "model server x broke the connection"}}
	s := m.session(aTask(1), nil, made.embed)
	requireOutage(t, m, log, s, "make a vector with model mock: model server x broke the connection")
	require.Empty(t, server.calls)
	made.mu.Lock()
	made.err = nil
	made.mu.Unlock()
	requireRecovery(t, m, log, s)

	none := m.session(aTask(2), nil, nil)
	require.Contains(t, none.Open(t.Context(), "Go.").Note, "no model makes vectors for this task")
}

func TestAVectorThatTakesTooLong(t *testing.T) {
	t.Parallel()
	_, endpoint := startQdrant(t)
	c := qdrantOn(endpoint)
	c.EmbedTimeout = 50 * time.Millisecond
	m, _ := watched(t, c)
	s := m.session(aTask(1), nil, func(ctx context.Context, _, _ string) ([]float32, error) {
		<-ctx.Done()
		return nil, &llm.Error{Code: task.CodeTimeout, Message: "had not answered"}
	})
	require.Contains(t, s.Open(t.Context(), "Go.").Note, "no answer within 50ms")
}

func TestOneTaskTriesForAllOthers(t *testing.T) {
	t.Parallel()
	h := newHealth(Config{Rest: time.Hour}, quiet())
	require.NoError(t, h.enter())
	h.failed("gone")
	require.ErrorIs(t, h.enter(), ErrUnavailable)
	require.ErrorIs(t, h.resting(), ErrUnavailable)
	h.next = time.Now()
	require.NoError(t, h.resting())
	require.NoError(t, h.enter())
	require.ErrorIs(t, h.enter(), ErrUnavailable, "the others wait for it")
	h.interrupted()
	require.NoError(t, h.enter(), "it could not tell")
	h.worked()
	require.NoError(t, h.enter())
	require.NoError(t, h.enter())
}

func TestStatusTellsWhatIsDown(t *testing.T) {
	t.Parallel()
	at := time.Now()
	up := Status{Backend: VectorStore, Healthy: true, Since: at, Operations: 3}
	down := Status{Backend: VectorStore, Since: at.Add(time.Second), Message: "gone", Operations: 2, Failures: 1}
	want := down
	want.Operations = 5
	require.Equal(t, want, up.merge(down))
	require.Equal(t, want, down.merge(up))
	later := up
	later.Since = at.Add(time.Minute)
	require.Equal(t, later.Since, up.merge(later).Since)
}

func TestNoSecretIsShown(t *testing.T) {
	t.Parallel()
	server := services.StartRedis(t)
	_, endpoint := startQdrant(t)
	pg := strings.Replace(services.Database(t, false), "ark@", "ark:not-the-password@", 1)
	for name, c := range map[string]struct {
		config  Config
		secrets []string
	}{
		"redis": {
			Config{Backend: Redis, Redis: RedisConfig{URL: strings.Replace(server.URL(), services.RedisSecret, "not-the-password", 1)}},
			[]string{"not-the-password"},
		},
		"pgvector": {
			Config{Backend: VectorStore, Embedding: EmbeddingConfig{Model: "m"}, Vector: VectorConfig{Provider: Pgvector, Endpoint: pg}},
			[]string{"not-the-password"},
		},
		"qdrant": {
			Config{Backend: VectorStore, Embedding: EmbeddingConfig{Model: "m"}, Vector: VectorConfig{Provider: Qdrant, Endpoint: endpoint, Secret: "not-the-api-key"}},
			[]string{"not-the-api-key"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, log := watched(t, c.config)
			s := m.session(aTask(1), nil, (&models{}).embed)
			all := []string{s.Open(t.Context(), "Go.").Note}
			m.health.next = time.Time{}
			r, err := s.Tools()[1].Call(t.Context(), tools.Call{Args: []byte(`{}`)})
			require.NoError(t, err)
			require.True(t, r.IsError)
			all = append(all, r.Text, m.Status().Message, log.String())
			for _, text := range all {
				require.NotEmpty(t, text)
				for _, secret := range c.secrets {
					require.NotContains(t, text, secret)
				}
			}
		})
	}
}

func TestSecretsAreTakenOutOfErrors(t *testing.T) {
	t.Parallel()
	var s secrets
	u, err := url.Parse("postgres://me:p%40ss%20word@host/db?sslpassword=second-one&x=1")
	require.NoError(t, err)
	s.addURL(u)
	s.add("the-key", "abc")
	require.Equal(t, "tried [hidden], [hidden], [hidden], [hidden] and abc of me",
		s.sentence(errors.New("tried p@ss word,\n[hidden], second-one,   the-key and abc of me")))
	require.Less(t, len(s.sentence(errors.New(strings.Repeat("日", 1000)))), maxMessage+10)
}
