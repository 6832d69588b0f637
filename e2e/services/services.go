// Package services starts the servers that tests need and that others wrote: Redis and PostgreSQL, each test with one, or
// with a database, of its own. Where they are not installed a test is skipped and says so, unless Required is set.
package services

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// Required is the environment variable that makes a test fail that cannot have its server, instead of being skipped.
const Required = "ARK_REQUIRE_SERVICES"

// Missing ends a test whose server cannot be started.
func Missing(t *testing.T, err error) {
	t.Helper()
	if os.Getenv(Required) != "" {
		t.Fatalf("the server of this test cannot be started: %v", err)
	}
	t.Skipf("the server of this test cannot be started: %v (.ci/services and .ci/everything install them)", err)
}

// process is a server in a folder of its own.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

var errEnded = errors.New("before it was told to")

// patience is how long a server may take to start on a machine that is busy with other things.
const patience = 5 * time.Minute

// launch starts a server and returns when a line of its output holds ready.
func launch(cmd *exec.Cmd, ready string) (*process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, r.Close(), w.Close())
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	_ = w.Close()
	up := make(chan error, 1)
	go func() {
		defer close(p.ended)
		defer func() { _ = r.Close() }()
		var said strings.Builder
		for lines := bufio.NewScanner(r); lines.Scan(); {
			if said.Len() < 4096 {
				said.WriteString(lines.Text() + "\n")
			}
			if strings.Contains(lines.Text(), ready) {
				up <- nil
				break
			}
		}
		_, _ = io.Copy(io.Discard, r)
		err := cmd.Wait()
		up <- fmt.Errorf("%s ended: %w: %s", cmd.Path, errors.Join(errEnded, err), said.String())
	}()
	select {
	case err := <-up:
		return p, err
	case <-time.After(patience):
		p.kill()
		return nil, fmt.Errorf("%s was not ready within %s", cmd.Path, patience)
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// ports are handed out one after another from below the system's own range: a server that is away for a while must find
// its port free when it comes back, and every other listener here takes one of the system's.
var ports = func() *atomic.Int32 {
	var n atomic.Int32
	n.Store(28000 + int32(os.Getpid()%200)*20)
	return &n
}()

// FreePort is a port of 127.0.0.1 that nobody listened on a moment ago, and that this process gives to nobody else.
func FreePort() (int, error) {
	var err error
	for range 200 {
		port := int(ports.Add(1))
		var l net.Listener
		if l, err = net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("no port is free: %w", err)
}

// onFreePort starts a server; somebody may have taken its port meanwhile.
func onFreePort(start func(port int) (*process, error)) (*process, int, error) {
	var err error
	for range 3 {
		var port int
		if port, err = FreePort(); err != nil {
			return nil, 0, err
		}
		var p *process
		if p, err = start(port); err == nil {
			return p, port, nil
		}
	}
	return nil, 0, err
}

// RedisSecret is the password of every Redis.
const RedisSecret = "correct-horse-battery"

// Redis is a server of one test.
type Redis struct {
	tb   *testing.T
	port int
	p    *process
}

// StartRedis starts a server that ends with the test.
func StartRedis(t *testing.T) *Redis {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		Missing(t, err)
	}
	s := &Redis{tb: t}
	p, port, err := onFreePort(func(port int) (*process, error) { return launchRedis(t.TempDir(), port) })
	require.NoError(t, err)
	s.p, s.port = p, port
	t.Cleanup(func() { s.p.kill() })
	return s
}

func launchRedis(dir string, port int) (*process, error) {
	return launch(exec.Command("redis-server", "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", dir,
		"--save", "", "--appendonly", "no", "--requirepass", RedisSecret), "Ready to accept connections")
}

// URL is its address, with the password.
func (s *Redis) URL() string {
	return fmt.Sprintf("redis://:%s@127.0.0.1:%d/0", RedisSecret, s.port)
}

// Kill ends the server.
func (s *Redis) Kill() { s.p.kill() }

// Again starts the server on the same port, with nothing in it.
func (s *Redis) Again() {
	s.tb.Helper()
	p, err := launchRedis(s.tb.TempDir(), s.port)
	require.NoError(s.tb, err)
	s.p = p
}

// PostgresSecret is the password of the user ark.
const PostgresSecret = "staple-of-the-tests"

// postgresServer is the PostgreSQL of all tests of the package, with a database for each.
type postgresServer struct {
	dir  string
	port int
	p    *process
}

// postgres starts on first use; Stop stops it.
var postgres = sync.OnceValues(startPostgres)

var started *postgresServer // by postgres

// Stop ends what all tests share; TestMain calls it.
func Stop() {
	if started == nil {
		return
	}
	_ = started.p.cmd.Process.Signal(os.Interrupt) // a fast shutdown: it frees its shared memory
	<-started.p.ended
	_ = os.RemoveAll(started.dir)
}

// postgresProgram finds a program of the newest PostgreSQL; Debian does not have them in the PATH.
func postgresProgram(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("PostgreSQL is not installed: there is no %s", name)
	}
	return found[len(found)-1], nil
}

// unprivileged has a command run as somebody else than root, whom PostgreSQL refuses, and gives dir to them.
func unprivileged(dir string) (*syscall.SysProcAttr, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL does not run as root, and there is nobody else: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, os.Chown(dir, int(uid), int(gid))
}

func startPostgres() (*postgresServer, error) {
	initdb, err := postgresProgram("initdb")
	if err != nil {
		return nil, err
	}
	program, err := postgresProgram("postgres")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "ark-postgres-")
	if err != nil {
		return nil, err
	}
	attr, err := unprivileged(dir)
	if err != nil {
		return nil, err
	}
	command := func(path string, args ...string) *exec.Cmd {
		cmd := exec.Command(path, args...)
		cmd.SysProcAttr, cmd.Dir, cmd.Env = attr, dir, append(os.Environ(), "HOME="+dir, "LC_ALL=C")
		return cmd
	}
	password := filepath.Join(dir, "password")
	if err := os.WriteFile(password, []byte(PostgresSecret), 0o644); err != nil { //nolint:gosec // another user reads it
		return nil, err
	}
	data := filepath.Join(dir, "data")
	init := command(initdb, "-D", data, "-U", "ark", "-A", "scram-sha-256", "--pwfile", password, "-E", "UTF8", "--no-sync")
	if out, err := init.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("initdb: %w: %s", err, out), os.RemoveAll(dir))
	}
	p, port, err := onFreePort(func(port int) (*process, error) {
		return launch(command(program, "-D", data, "-p", strconv.Itoa(port), "-k", dir, "-c", "listen_addresses=127.0.0.1",
			"-c", "fsync=off", "-c", "max_connections=100", "-c", "shared_buffers=16MB"), "database system is ready to accept connections")
	})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	started = &postgresServer{dir: dir, port: port, p: p}
	return started, nil
}

func (s *postgresServer) endpoint(database string) string {
	return fmt.Sprintf("postgres://ark@127.0.0.1:%d/%s?sslmode=disable", s.port, database)
}

func (s *postgresServer) run(ctx context.Context, database string, statements ...string) error {
	config, err := pgx.ParseConfig(s.endpoint(database))
	if err != nil {
		return err
	}
	config.Password = PostgresSecret
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for _, text := range statements {
		if _, err := conn.Exec(ctx, text); err != nil {
			return err
		}
	}
	return nil
}

// emulated stands for pgvector where it is not installed: a type that holds a vector's text, and its operator for the
// cosine distance. Everything else, the SQL of the store included, is as with the real one.
var emulated = []string{
	`CREATE DOMAIN vector AS text`,
	`CREATE FUNCTION cosine_distance(text, text) RETURNS float8 LANGUAGE sql IMMUTABLE AS $$
		SELECT 1 - sum(x * y) / sqrt(sum(x * x) * sum(y * y)) FROM (
			SELECT a.v::float8 AS x, b.v::float8 AS y
			FROM json_array_elements_text($1::json) WITH ORDINALITY a(v, n)
			JOIN json_array_elements_text($2::json) WITH ORDINALITY b(v, n) USING (n)
		) pairs $$`,
	`CREATE OPERATOR <=> (LEFTARG = text, RIGHTARG = text, FUNCTION = cosine_distance)`,
}

// Database makes a database with pgvector, or with what stands for it, and returns its endpoint.
func Database(t *testing.T, vectors bool) string {
	t.Helper()
	s, err := postgres()
	if err != nil {
		Missing(t, err)
	}
	name := "test_" + strings.ToLower(rand.Text())
	require.NoError(t, s.run(t.Context(), "postgres", "CREATE DATABASE "+name))
	if vectors && s.run(t.Context(), name, "CREATE EXTENSION vector") != nil {
		t.Log("pgvector is not installed: a type of the test's own stands for it")
		require.NoError(t, s.run(t.Context(), name, emulated...))
	}
	return s.endpoint(name)
}
