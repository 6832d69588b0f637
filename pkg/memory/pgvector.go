package memory

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pgvector/pgvector-go"
)

// pgvectorStore keeps entries in a table of PostgreSQL, which it makes. Similar ones are looked for among the entries of
// one session, all of which are compared: exact, and fast up to some ten thousand.
type pgvectorStore struct {
	config VectorConfig
	embed  EmbeddingConfig
	table  string // quoted
	pool   *pgxpool.Pool

	mu    sync.Mutex
	ready bool // the table is there
}

func (c VectorConfig) poolConfig() (*pgxpool.Config, error) {
	if !strings.HasPrefix(c.Endpoint, "postgres://") && !strings.HasPrefix(c.Endpoint, "postgresql://") {
		return nil, errors.New("the endpoint of pgvector must be an address such as postgres://user@host:5432/database")
	}
	p, err := pgxpool.ParseConfig(c.Endpoint)
	if err != nil { // it may quote the password
		return nil, errors.New("the endpoint of pgvector does not parse: want postgres://user@host:5432/database, with parameters such as ?sslmode=verify-full")
	}
	if c.User != "" {
		p.ConnConfig.User = c.User
	}
	if c.Secret != "" {
		p.ConnConfig.Password = c.Secret
	}
	p.MaxConns, p.MinConns, p.MaxConnIdleTime = 4, 0, time.Minute
	// One round trip, and no prepared statements that a connection pooler would lose.
	p.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	p.ConnConfig.RuntimeParams["application_name"] = "ark"
	return p, nil
}

func newPgvector(ctx context.Context, c Config) (*pgvectorStore, error) {
	p, err := c.Vector.poolConfig()
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, p)
	if err != nil {
		return nil, err
	}
	return &pgvectorStore{config: c.Vector, embed: c.Embedding, table: pgx.Identifier{c.Vector.Collection}.Sanitize(), pool: pool}, nil
}

func (s *pgvectorStore) close() error {
	s.pool.Close()
	return nil
}

// sql fills in the table's name.
func (s *pgvectorStore) sql(text string) string { return strings.ReplaceAll(text, "@table", s.table) }

const (
	pgSchema = `CREATE TABLE IF NOT EXISTS @table (
	session text NOT NULL,
	id uuid NOT NULL,
	kind text NOT NULL,
	body text NOT NULL,
	space text NOT NULL,
	embedding vector NOT NULL,
	at timestamptz NOT NULL,
	expires timestamptz,
	PRIMARY KEY (session, id)
)`
	pgPut = `INSERT INTO @table AS t (session, id, kind, body, space, embedding, at, expires)
VALUES ($1::text, $2::uuid, $3::text, $4::text, $5::text, $6::vector, clock_timestamp(),
	CASE WHEN $7::bigint > 0 THEN clock_timestamp() + $7::bigint * interval '1 microsecond' END)
ON CONFLICT (session, id) DO UPDATE
SET kind = excluded.kind, body = excluded.body, space = excluded.space, embedding = excluded.embedding,
	at = excluded.at, expires = excluded.expires
WHERE t.body <> excluded.body OR t.kind <> excluded.kind OR t.space <> excluded.space OR t.expires <= excluded.at`
	pgExpire = `DELETE FROM @table WHERE (session, id) IN
	(SELECT session, id FROM @table WHERE expires <= clock_timestamp() LIMIT 100 FOR UPDATE SKIP LOCKED)`
	pgSelect = `SELECT id::text, kind, body, at FROM @table
WHERE session = $1::text AND (expires IS NULL OR expires > clock_timestamp())`
	pgNewest  = pgSelect + ` ORDER BY at DESC, id LIMIT $2::bigint`
	pgSimilar = pgSelect + ` AND space = $2::text ORDER BY embedding <=> $3::vector, at DESC, id LIMIT $4::bigint`
)

// Put stores an entry with its vector, and removes some of what has expired.
func (s *pgvectorStore) Put(ctx context.Context, session string, e Entry) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	_, err := s.pool.Exec(ctx, s.sql(pgPut), session, e.ID, string(e.Kind), e.Text, s.embed.space(e.Vector),
		pgvector.NewVector(e.Vector), s.config.TTL.Microseconds())
	if err != nil {
		return s.explain(err)
	}
	if _, err := s.pool.Exec(ctx, s.sql(pgExpire)); err != nil {
		return s.explain(err)
	}
	return nil
}

// Find returns the most similar entries, or the newest.
func (s *pgvectorStore) Find(ctx context.Context, session string, like []float32, n int) ([]Entry, error) {
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	query, args := pgNewest, []any{session, int64(n)}
	if like != nil {
		query, args = pgSimilar, []any{session, s.embed.space(like), pgvector.NewVector(like), int64(n)}
	}
	rows, err := s.pool.Query(ctx, s.sql(query), args...)
	if err != nil {
		return nil, s.explain(err)
	}
	entries, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e Entry, err error) {
		err = row.Scan(&e.ID, &e.Kind, &e.Text, &e.At)
		e.At = e.At.UTC()
		return e, err
	})
	if err != nil {
		return nil, s.explain(err)
	}
	return entries, nil
}

// pgLock is the advisory lock under which the table is made: "ark memo".
const pgLock = 0x61726b206d656d6f

// prepare makes the table, once.
func (s *pgvectorStore) prepare(ctx context.Context) error {
	s.mu.Lock()
	ready := s.ready
	s.mu.Unlock()
	if ready {
		return nil
	}
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var there bool
		if err := tx.QueryRow(ctx, "SELECT to_regclass($1::text) IS NOT NULL", s.table).Scan(&there); err != nil || there {
			return err
		}
		return s.create(ctx, tx)
	})
	if err != nil {
		return s.explain(err)
	}
	s.mu.Lock()
	s.ready = true
	s.mu.Unlock()
	return nil
}

// create makes the table and, where the type is missing, the extension. Whoever has no right to do so needs somebody who
// has done it before.
func (s *pgvectorStore) create(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1::bigint)", int64(pgLock)); err != nil {
		return err
	}
	var known bool
	if err := tx.QueryRow(ctx, "SELECT to_regtype('vector') IS NOT NULL").Scan(&known); err != nil {
		return err
	}
	if !known {
		if _, err := tx.Exec(ctx, "CREATE EXTENSION IF NOT EXISTS vector"); err != nil {
			return fmt.Errorf("the database has no pgvector: have an administrator install it and run CREATE EXTENSION vector: %w", err)
		}
	}
	for _, text := range []string{
		pgSchema,
		"CREATE INDEX ON @table (session, at DESC)",
		"CREATE INDEX ON @table (expires) WHERE expires IS NOT NULL",
	} {
		if _, err := tx.Exec(ctx, s.sql(text)); err != nil {
			return err
		}
	}
	return nil
}

// explain adds what to do, and has the table made again when it is gone.
func (s *pgvectorStore) explain(err error) error {
	const undefinedTable, undefinedColumn = "42P01", "42703"
	var said *pgconn.PgError
	if !errors.As(err, &said) {
		return err
	}
	switch said.Code {
	case undefinedTable:
		s.mu.Lock()
		s.ready = false
		s.mu.Unlock()
	case undefinedColumn:
		return fmt.Errorf("the table %s is not one of ark's: choose another collection: %w", s.config.Collection, err)
	}
	return err
}
