package memory

import (
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/e2e/services"
	"arkonis.dev/ark/pkg/llm/mock"
)

func TestRedisKeepsAtMostSoManyEntries(t *testing.T) {
	t.Parallel()
	server := services.StartRedis(t)
	s := openRedis(t, Config{Redis: RedisConfig{URL: server.URL(), MaxEntries: 3}})
	for i := range 5 {
		require.NoError(t, s.Put(t.Context(), "a", vectorEntry(fmt.Sprint(i))))
	}
	require.Equal(t, []string{"4", "3", "2"}, texts(t, s, "a", nil, 10))

	fewer := openRedis(t, Config{Redis: RedisConfig{URL: server.URL(), MaxEntries: 2}})
	require.Equal(t, []string{"4", "3"}, texts(t, fewer, "a", nil, 10), "a lower limit holds for what is there")
	require.NoError(t, fewer.Put(t.Context(), "a", vectorEntry("5")))
	require.Equal(t, []string{"5", "4"}, texts(t, s, "a", nil, 10))

	client := clientOf(t, server)
	n, err := client.HLen(t.Context(), s.keys("a")[1]).Result()
	require.NoError(t, err)
	require.EqualValues(t, 2, n, "the contents go with the entries")
}

func TestRedisForgetsAfterTheTTL(t *testing.T) {
	t.Parallel()
	server := services.StartRedis(t)
	s := openRedis(t, Config{Redis: RedisConfig{URL: server.URL(), TTL: time.Hour}})
	require.NoError(t, s.Put(t.Context(), "a", vectorEntry("one")))
	require.NoError(t, s.Put(t.Context(), "a", vectorEntry("two")))
	client := clientOf(t, server)
	for _, key := range s.keys("a") {
		ttl, err := client.PTTL(t.Context(), key).Result()
		require.NoError(t, err)
		require.InDelta(t, time.Hour, ttl, float64(time.Minute))
	}

	// The first entry grows an hour old.
	age := float64(time.Now().Add(-time.Hour).UnixMicro())
	require.NoError(t, client.ZAdd(t.Context(), s.keys("a")[0], redis.Z{Score: age, Member: entryID("task", "one")}).Err())
	require.Equal(t, []string{"two"}, texts(t, s, "a", nil, 10))
	require.NoError(t, s.Put(t.Context(), "a", vectorEntry("three")))
	n, err := client.HLen(t.Context(), s.keys("a")[1]).Result()
	require.NoError(t, err)
	require.EqualValues(t, 2, n, "it is removed by the next write")

	forever := openRedis(t, Config{Redis: RedisConfig{URL: server.URL()}})
	require.NoError(t, forever.Put(t.Context(), "a", vectorEntry("four")))
	ttl, err := client.PTTL(t.Context(), s.keys("a")[0]).Result()
	require.NoError(t, err)
	require.Equal(t, time.Duration(-1), ttl, "without a ttl nothing expires any more")
}

func clientOf(t *testing.T, server *services.Redis) *redis.Client {
	t.Helper()
	o, err := redis.ParseURL(server.URL())
	require.NoError(t, err)
	c := redis.NewClient(o)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestPgvectorForgetsAfterTheTTL(t *testing.T) {
	t.Parallel()
	c := pgvectorOn(services.Database(t, true))
	c.Vector.TTL = time.Hour
	s := openPgvector(t, c)
	require.NoError(t, s.Put(t.Context(), "a", vectorEntry("one")))
	require.NoError(t, s.Put(t.Context(), "a", vectorEntry("two")))
	_, err := s.pool.Exec(t.Context(), s.sql(`UPDATE @table SET expires = expires - interval '1 hour' WHERE body = 'one'`))
	require.NoError(t, err)
	require.Equal(t, []string{"two"}, texts(t, s, "a", nil, 10))
	require.Equal(t, []string{"two"}, texts(t, s, "a", mock.Vector("one", 0), 10))
	require.NoError(t, s.Put(t.Context(), "b", vectorEntry("three")))
	var n int
	require.NoError(t, s.pool.QueryRow(t.Context(), s.sql("SELECT count(*) FROM @table")).Scan(&n))
	require.Equal(t, 2, n, "what has expired is removed, whose ever it is")

	require.NoError(t, s.Put(t.Context(), "a", vectorEntry("one")))
	require.Equal(t, []string{"one", "two"}, texts(t, s, "a", nil, 10), "it can be remembered anew")
}

func TestPgvectorComparesOnlyVectorsOfOneModel(t *testing.T) {
	t.Parallel()
	c := pgvectorOn(services.Database(t, true))
	s := openPgvector(t, c)
	require.NoError(t, s.Put(t.Context(), "a", vectorEntry("one")))
	c.Embedding.Model = "another"
	other := openPgvector(t, c)
	short := vectorEntry("two")
	short.Vector = mock.Vector("two", 3)
	require.NoError(t, other.Put(t.Context(), "a", short))
	require.Equal(t, []string{"one"}, texts(t, s, "a", mock.Vector("one", 0), 10))
	require.Equal(t, []string{"two"}, texts(t, other, "a", mock.Vector("one", 3), 10))
	require.Equal(t, []string{"two", "one"}, texts(t, s, "a", nil, 10), "the newest are those of both")
}

func TestPgvectorTablesWithOddNames(t *testing.T) {
	t.Parallel()
	c := pgvectorOn(services.Database(t, true))
	c.Vector.Collection = `Robert"); DROP TABLE students; --`
	s := openPgvector(t, c)
	require.NoError(t, s.Put(t.Context(), "a", vectorEntry("one")))
	require.Equal(t, []string{"one"}, texts(t, s, "a", nil, 10))

	// Somebody removes the table: the next use fails, the one after that makes it again.
	_, err := s.pool.Exec(t.Context(), s.sql("DROP TABLE @table"))
	require.NoError(t, err)
	require.Error(t, s.Put(t.Context(), "a", vectorEntry("two")))
	require.NoError(t, s.Put(t.Context(), "a", vectorEntry("two")))
}

func TestPgvectorSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	endpoint := services.Database(t, false)
	s := openPgvector(t, pgvectorOn(endpoint))
	err := s.Put(t.Context(), "a", vectorEntry("one"))
	if err == nil {
		require.Equal(t, []string{"one"}, texts(t, s, "a", nil, 10), "pgvector is installed: the store has made the extension")
		return
	}
	require.ErrorContains(t, err, "the database has no pgvector: have an administrator install it and run CREATE EXTENSION vector")

	c := pgvectorOn(services.Database(t, true))
	other := openPgvector(t, c)
	_, err = other.pool.Exec(t.Context(), other.sql("CREATE TABLE @table (name text)"))
	require.NoError(t, err)
	_, err = other.Find(t.Context(), "a", nil, 1)
	require.ErrorContains(t, err, "the table agent-memories is not one of ark's: choose another collection")
}

func TestNotesAreBounded(t *testing.T) {
	t.Parallel()
	s := newNotes()
	for i := range maxNotes + 10 {
		require.NoError(t, s.Put(t.Context(), "", vectorEntry(fmt.Sprint(i))))
	}
	found := texts(t, s, "", nil, 10*maxNotes)
	require.Len(t, found, maxNotes)
	require.Equal(t, fmt.Sprint(maxNotes+9), found[0])
	require.Equal(t, "10", found[maxNotes-1])
}
