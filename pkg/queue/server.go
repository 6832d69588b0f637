package queue

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"arkonis.dev/ark/pkg/queue/identity"
)

// DefaultMaxPayload is the size in bytes of the largest message, headers included.
const DefaultMaxPayload = 1 << 20

const (
	startTimeout = 30 * time.Second
	// tlsTimeout is how long a client may take to agree on TLS.
	tlsTimeout = 5 * time.Second
	// syncInterval is how often the disk is synced without SyncAlways.
	syncInterval = 2 * time.Minute
	// watchEvery is how often the server's health is looked at.
	watchEvery = 2 * time.Second
	// illLooks is how often in a row a stream has to be missing: it is, too, while it is being made, which takes long on a
	// slow disk.
	illLooks = 10
	// spareBytes must be free on the disk before a server that has failed to write is tried again.
	spareBytes = 4 << 20
)

// ServerConfig says how the embedded server stores, and whom it lets in.
type ServerConfig struct {
	// StoreDir is the folder of the store, made if need be and locked while the server runs. Empty keeps everything
	// in memory.
	StoreDir string
	// SyncAlways syncs every write before it is acknowledged: an acknowledged message survives a power cut. Without
	// it the system's page cache is trusted, which survives the death of the process only.
	SyncAlways bool
	MaxPayload int32 // of a message in bytes, DefaultMaxPayload if 0
	// Authority signs the credentials of agents, which Allow lets in. Without one nothing but this process can connect.
	Authority *identity.Authority
	// Listen is the address of the server's port, such as "0.0.0.0:4222"; port 0 is any free one. Empty opens none. A
	// port needs an Authority and a Certificate: it takes TLS only, and nobody without credentials.
	Listen      string
	Certificate *Certificate
	Logger      *slog.Logger // warnings and errors of the server; slog.Default() if nil
}

func (c *ServerConfig) validate() error {
	if c.MaxPayload < 0 {
		return fmt.Errorf("MaxPayload: %d is negative", c.MaxPayload)
	}
	if c.SyncAlways && c.StoreDir == "" {
		return errors.New("SyncAlways: a server in memory has nothing to sync, set StoreDir")
	}
	if c.Listen != "" && (c.Authority == nil || c.Certificate == nil) {
		return fmt.Errorf("listen on %s: a port needs an Authority and a Certificate", c.Listen)
	}
	if c.MaxPayload == 0 {
		c.MaxPayload = DefaultMaxPayload
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return nil
}

// Server is an embedded NATS server.
type Server struct {
	cfg      ServerConfig
	ns       *server.Server
	accounts *identity.Accounts // nil without an Authority
	key      []byte             // see ConsumerKey
	lock     *dirLock           // nil in memory
	temp     string             // removed at the end, "" on disk

	mu    sync.Mutex
	conns []*nats.Conn
	stop  sync.Once

	quit     chan struct{} // closed by Shutdown
	watching sync.WaitGroup
}

// StartServer starts the server and returns when it takes connections. The error is a LockedError when another
// server, of this process or another one, uses the folder. The context bounds the start only; the caller ends the
// server with Shutdown.
func StartServer(ctx context.Context, cfg ServerConfig) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("queue server: %w", err)
	}
	s := &Server{cfg: cfg, quit: make(chan struct{})}
	if err := s.start(ctx); err != nil {
		s.Shutdown()
		return nil, fmt.Errorf("start queue server: %w", err)
	}
	return s, nil
}

func (s *Server) start(ctx context.Context) error {
	dir, err := s.folder()
	if err != nil {
		return err
	}
	if err := dropTorn(dir); err != nil {
		return err
	}
	options, err := s.options(dir)
	if err != nil {
		return err
	}
	s.ns, err = server.NewServer(options)
	if err != nil {
		return err
	}
	s.ns.SetLoggerV2(serverLog{s.cfg.Logger}, false, false, false)
	s.ns.Start()
	if err := s.ready(ctx); err != nil || s.cfg.StoreDir == "" {
		return err
	}
	s.watching.Add(1)
	go s.watch()
	return nil
}

func (s *Server) options(dir string) (*server.Options, error) {
	o := &server.Options{
		ServerName:             "ark",
		DontListen:             true,
		NoSigs:                 true,
		JetStream:              true,
		DisableJetStreamBanner: true,
		StoreDir:               dir,
		SyncAlways:             s.cfg.SyncAlways,
		SyncInterval:           syncInterval,
		MaxPayload:             s.cfg.MaxPayload,
		// The streams carry the limits. The server's own would be taken from the memory and disk that happen to be
		// free at the start, and a store that has grown could not be opened again.
		JetStreamMaxMemory: math.MaxInt64 / 2,
		JetStreamMaxStore:  math.MaxInt64 / 2,
		MaxSubs:            connectionSubscriptions,
		MaxPending:         connectionPending,
	}
	if s.cfg.Authority == nil {
		return o, nil
	}
	var err error
	if s.key, err = consumerKey(dir); err != nil {
		return nil, err
	}
	if s.accounts, err = identity.NewAccounts(s.cfg.Authority, accountsConfig(s.cfg.MaxPayload, s.key)); err != nil {
		return nil, err
	}
	if err := s.accounts.Apply(o); err != nil || s.cfg.Listen == "" {
		return o, err
	}
	host, port, err := net.SplitHostPort(s.cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", s.cfg.Listen, err)
	}
	if o.Port, err = strconv.Atoi(port); err != nil {
		return nil, fmt.Errorf("listen on %s: the port is not a number", s.cfg.Listen)
	}
	if o.Port == 0 {
		o.Port = server.RANDOM_PORT
	}
	o.DontListen, o.Host = false, host
	o.TLS, o.TLSConfig, o.TLSTimeout = true, s.cfg.Certificate.config(), tlsTimeout.Seconds()
	return o, nil
}

// folder locks the store, or makes a folder for what a server in memory still keeps on disk.
func (s *Server) folder() (string, error) {
	if s.cfg.StoreDir == "" {
		dir, err := os.MkdirTemp("", "ark-")
		s.temp = dir
		return dir, err
	}
	if err := os.MkdirAll(s.cfg.StoreDir, 0o700); err != nil {
		return "", fmt.Errorf("make store folder: %w", err)
	}
	lock, err := lockDir(s.cfg.StoreDir)
	s.lock = lock
	return s.cfg.StoreDir, err
}

func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ready := make(chan bool, 1)
	go func() { ready <- s.ns.ReadyForConnections(startTimeout) }()
	select {
	case ok := <-ready:
		if !ok || !s.ns.JetStreamEnabled() {
			return fmt.Errorf("JetStream did not come up in folder %s", s.ns.StoreDir())
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Connect opens a connection inside the process, with every right over the streams. Shutdown closes it.
func (s *Server) Connect(name string) (*nats.Conn, error) {
	options := append(ConnectOptions(name, s.cfg.Logger), nats.InProcessServer(s.ns))
	if s.accounts != nil {
		login, err := s.accounts.Login()
		if err != nil {
			return nil, fmt.Errorf("connect to queue server: %w", err)
		}
		options = append(options, login)
	}
	nc, err := nats.Connect("", options...)
	if err != nil {
		return nil, fmt.Errorf("connect to queue server: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, nc)
	return nc, nil
}

// Address is that of the server's port, host and port; empty when it has none.
func (s *Server) Address() string {
	if s.cfg.Listen == "" {
		return ""
	}
	return s.ns.Addr().String()
}

// ConsumerKey is for the Config of the queue on this server. It lives beside the streams, whose consumers it names; nil
// without an Authority.
func (s *Server) ConsumerKey() []byte { return s.key }

// consumerKey reads the key of a store, or makes it.
func consumerKey(dir string) ([]byte, error) {
	file := filepath.Join(dir, "consumers.key")
	key, err := os.ReadFile(filepath.Clean(file))
	if err == nil && len(key) == keySize {
		return key, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the key of the consumers: %w", err)
	}
	key = make([]byte, keySize)
	rand.Read(key)
	if err := os.WriteFile(file+".new", key, 0o600); err != nil {
		return nil, fmt.Errorf("keep the key of the consumers: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return nil, fmt.Errorf("keep the key of the consumers: %w", err)
	}
	return key, nil
}

// keySize is in bytes.
const keySize = 32

// Accounts say which agents are let in. They are nil without an Authority.
func (s *Server) Accounts() *identity.Accounts { return s.accounts }

// Shutdown closes the connections, ends the server, waits until the store is closed and releases the folder. It may
// be called more than once.
func (s *Server) Shutdown() {
	s.stop.Do(func() {
		close(s.quit)
		s.watching.Wait()
		s.mu.Lock()
		for _, nc := range s.conns {
			nc.Close()
		}
		s.mu.Unlock()
		if s.ns != nil {
			s.ns.Shutdown()
			s.ns.WaitForShutdown()
		}
		if s.temp != "" {
			if err := os.RemoveAll(s.temp); err != nil {
				s.cfg.Logger.Warn("temporary folder of the queue server was not removed", "error", err)
			}
		}
		s.lock.release()
	})
}

// watch ends with Shutdown. A stream that has failed to write once, because the disk was full, refuses every write
// from then on: only a restart of JetStream makes it look again. Connections live on; what was not acknowledged fails
// for its caller, and consumers go on where they were.
func (s *Server) watch() {
	defer s.watching.Done()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	told, ill := false, 0
	for {
		select {
		case <-s.quit:
			return
		case <-tick.C:
		}
		cause := s.ailment()
		if cause == "" {
			told, ill = false, 0
			continue
		}
		if ill++; strings.HasSuffix(cause, "could not be recovered") && ill < illLooks {
			continue
		}
		if !told {
			s.cfg.Logger.Error("the store of the queue cannot be written, it is tried again when it can", "folder", s.cfg.StoreDir, "cause", cause)
			told = true
		}
		if err := s.revive(); err != nil {
			s.cfg.Logger.Debug("the store of the queue still cannot be written", "folder", s.cfg.StoreDir, "error", err)
			continue
		}
		s.cfg.Logger.Info("the store of the queue can be written again", "folder", s.cfg.StoreDir)
	}
}

// ailment is what is wrong with the store, "" for nothing. The server's own check first demands that it can be had a
// hold of within a millisecond: that says something about a busy machine, and nothing about the store.
func (s *Server) ailment() string {
	health := s.ns.Healthz(&server.HealthzOptions{})
	if health.Status == "ok" || strings.HasPrefix(health.Error, "failed to be ready for connections") {
		return ""
	}
	return health.Error
}

// revive restarts JetStream on its folder when the disk takes data again.
func (s *Server) revive() error {
	if err := s.probe(); err != nil {
		return err
	}
	if err := s.ns.ShutdownJetStream(); err != nil {
		return fmt.Errorf("stop JetStream: %w", err)
	}
	err := s.ns.EnableJetStream(&server.JetStreamConfig{
		StoreDir:     s.cfg.StoreDir,
		SyncAlways:   s.cfg.SyncAlways,
		SyncInterval: syncInterval,
		MaxMemory:    math.MaxInt64 / 2,
		MaxStore:     math.MaxInt64 / 2,
		Strict:       true,
	})
	if err != nil {
		return fmt.Errorf("start JetStream: %w", err)
	}
	return nil
}

// probe writes and syncs a file of its own beside the store.
func (s *Server) probe() error {
	f, err := os.CreateTemp(s.cfg.StoreDir, "probe-")
	if err != nil {
		return fmt.Errorf("probe folder %s: %w", s.cfg.StoreDir, err)
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(filepath.Clean(f.Name()))
	}()
	if _, err = f.Write(make([]byte, spareBytes)); err == nil {
		err = f.Sync()
	}
	if err != nil {
		return fmt.Errorf("probe folder %s: %w", s.cfg.StoreDir, err)
	}
	return nil
}

// serverLog passes what the server says to slog: notices are detail, a "fatal" of the server does not end ark.
type serverLog struct{ log *slog.Logger }

func (l serverLog) Noticef(format string, v ...any) { l.detail(format, v) }
func (l serverLog) Debugf(format string, v ...any)  { l.detail(format, v) }
func (l serverLog) Tracef(format string, v ...any)  { l.detail(format, v) }

func (l serverLog) Warnf(format string, v ...any) {
	l.log.Warn("queue server", "message", fmt.Sprintf(format, v...))
}

func (l serverLog) Errorf(format string, v ...any) {
	l.log.Error("queue server", "message", fmt.Sprintf(format, v...))
}

func (l serverLog) Fatalf(format string, v ...any) { l.Errorf(format, v...) }

func (l serverLog) detail(format string, v []any) {
	l.log.Debug("queue server", "message", lazy{format, v})
}

// lazy is formatted only when somebody reads it.
type lazy struct {
	format string
	args   []any
}

func (l lazy) LogValue() slog.Value { return slog.StringValue(fmt.Sprintf(l.format, l.args...)) }

// The lock is held through a bare descriptor: an os.File would close itself, and let go of the lock, as soon as
// nothing refers to the Server any more, while the server runs on.

func lockFile(dir string) string { return filepath.Join(dir, "ark.lock") }

// lockWord is what the holder leaves for whoever finds the folder locked.
func lockWord() []byte { return []byte(strconv.Itoa(os.Getpid()) + "\n") }

// holder reads the pid that the holder wrote, 0 if it has not yet.
func holder(dir string) int {
	b, err := os.ReadFile(lockFile(dir))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return pid
}

// dropTorn removes consumers that a process was killed in the middle of making: the server does not load them, but the
// next consumer of the same name would inherit what is left, and wait until the acknowledgements that a dead process
// owed are overdue. Nothing is lost with them, as tasks live in the stream.
func dropTorn(store string) error {
	consumers, err := filepath.Glob(filepath.Join(store, "jetstream", "*", "streams", "*", "obs", "*"))
	if err != nil {
		return err
	}
	for _, dir := range consumers {
		if _, err := os.Stat(filepath.Join(dir, "meta.sum")); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove half a consumer: %w", err)
		}
	}
	return nil
}
