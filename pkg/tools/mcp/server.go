package mcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"arkonis.dev/ark/pkg/tools"
)

// server looks after one server: it keeps a session open and the catalog fresh. Its states: never connected
// (catalog nil), up (current set), down (current nil, problem says why), closed.
type server struct {
	config Config
	creds  *credentials
	dialer *dialer
	log    *slog.Logger
	kick   chan struct{} // holds something when a call wants the server now
	group  sync.WaitGroup

	mu      sync.Mutex
	current *session
	all     map[*session]bool // all that are not closed
	catalog *catalog          // the last known
	problem string
	since   time.Time // when it went down
	began   int       // attempts to connect that began
	ended   int       // attempts that ended
	closed  bool
	changed chan struct{} // closed and replaced at each change of the above
	tell    func()        // called after each change, with the lock
}

// session is a connection with the calls that use it.
type session struct {
	*opened
	served  atomic.Bool // a call was answered
	late    atomic.Bool // the last call was not answered in time
	refs    int         // calls that use it; under server.mu
	retired bool        // no further calls; under server.mu
	closing bool        // under server.mu
}

const notReached = "it was not reached yet"

func newServer(config Config, network *tools.Network, log *slog.Logger, tell func()) *server {
	base, err := url.Parse(config.URL)
	if err != nil {
		base = &url.URL{} // refused by Validate
	}
	creds := newCredentials(config, network)
	return &server{
		config: config, creds: creds, dialer: &dialer{config: config, base: base, creds: creds},
		log: log.With("server", config.Name), kick: make(chan struct{}, 1), all: map[*session]bool{},
		since: time.Now(), problem: notReached, changed: make(chan struct{}), tell: tell,
	}
}

// update changes the state and wakes all who wait for a change.
func (s *server) update(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
	s.tell()
}

// run keeps a session open until ctx ends, and then closes everything.
func (s *server) run(ctx context.Context) {
	defer s.shutdown()
	wait := backoff{}
	for ctx.Err() == nil {
		began := time.Now()
		err := s.session(ctx)
		if err == nil {
			wait = backoff{} // it worked for a while
		}
		if ctx.Err() == nil {
			s.between(ctx, wait.next(), began)
		}
	}
}

// steady is how long a session lasts that counts as a success though nobody called.
const steady = 10 * time.Second

var errShort = errors.New("the session was short and of no use")

// session opens a session and keeps it until it ends. An error means that it was of no use, a panic among them.
func (s *server) session(ctx context.Context) (err error) {
	defer func() {
		if v := recover(); v != nil {
			s.log.ErrorContext(ctx, "tool server connection panicked", "panic", v, "stack", string(debug.Stack()))
			err = errors.New("the connection failed internally")
			s.down(err, 1)
		}
	}()
	o, err := s.connect(ctx)
	if err != nil {
		s.down(err, 1)
		return err
	}
	current := &session{opened: o}
	defer s.retire(current)
	s.up(current)
	began := time.Now()
	s.down(s.watch(ctx, current), 0)
	if !current.served.Load() && time.Since(began) < steady {
		return errShort
	}
	return nil
}

// connect makes one attempt.
func (s *server) connect(ctx context.Context) (*opened, error) {
	s.update(func() { s.began++ })
	bounded, cancel := context.WithTimeoutCause(ctx, s.config.ConnectTimeout,
		fmt.Errorf("no answer within %s", s.config.ConnectTimeout))
	defer cancel()
	o, err := s.dialer.open(bounded, ctx)
	if err != nil && bounded.Err() != nil {
		return nil, context.Cause(bounded)
	}
	return o, err
}

func (s *server) up(current *session) {
	s.update(func() {
		s.current, s.catalog, s.problem = current, current.catalog, ""
		s.all[current] = true
		s.ended++
	})
	s.log.Info("tool server connected", "transport", current.form.String(), "tools", len(current.catalog.tools),
		"note", s.creds.redact(current.catalog.note()))
}

// down notes that there is no session, and tells of it once. attempts is how many attempts ended with it.
func (s *server) down(err error, attempts int) {
	problem := s.creds.wording(err)
	told := false
	s.update(func() {
		told = s.problem == problem
		if s.problem == "" {
			s.since = time.Now()
		}
		s.current, s.problem = nil, problem
		s.ended += attempts
	})
	if !told && !errors.Is(err, context.Canceled) {
		s.log.Warn("tool server unreachable", "place", s.config.place(), "problem", problem)
	}
}

// relistPause is the shortest time between two lists.
const relistPause = 200 * time.Millisecond

// watch keeps the catalog fresh until the session is of no more use, and says why it is not.
func (s *server) watch(ctx context.Context, current *session) error {
	timer := time.NewTimer(jitter(s.config.Refresh))
	defer timer.Stop()
	for {
		var tick <-chan time.Time
		if s.config.Transport != Stdio {
			tick = timer.C
		}
		select {
		case <-current.life.ctx.Done():
			return context.Cause(current.life.ctx)
		case <-current.life.changed:
		case <-tick:
		}
		if err := s.relist(ctx, current); err != nil {
			return err
		}
		timer.Reset(jitter(s.config.Refresh))
		pause(current.life.ctx, relistPause)
	}
}

// relist reads the list again. It fails when that shows that the session is of no more use.
func (s *server) relist(ctx context.Context, current *session) error {
	ctx, cancel := context.WithTimeout(ctx, s.config.ConnectTimeout)
	defer cancel()
	defer context.AfterFunc(current.life.ctx, cancel)()
	found, err := list(ctx, current.conn, s.config)
	var f *failure
	switch {
	case err == nil:
		s.update(func() { s.catalog = found })
		return nil
	case current.life.ctx.Err() != nil:
		return context.Cause(current.life.ctx)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		if s.busy(current) && !current.late.Load() {
			return nil // a server that works on a call need not be able to answer
		}
		return fmt.Errorf("no answer within %s", s.config.ConnectTimeout)
	case errors.As(err, &f) && f.outcome == refusedIt && !f.lost && !f.credentials:
		return nil // it is there, and keeps its list to itself for now
	default:
		return err
	}
}

func (s *server) busy(current *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return current.refs > 0
}

// attemptPause is the shortest time between two attempts that calls ask for.
const attemptPause = 250 * time.Millisecond

// between waits for the next attempt. A call that wants the server cuts it short.
func (s *server) between(ctx context.Context, wait time.Duration, began time.Time) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-s.kick:
		pause(ctx, min(wait, attemptPause-time.Since(began)))
	}
}

// freshWait is how long a call waits at most for one more attempt at a server that has been down for long.
const freshWait = 2 * time.Second

// acquire gives a session for one call, which release ends. It waits a while for one.
func (s *server) acquire(ctx context.Context) (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fresh := s.began + 1
	patience := time.NewTimer(max(freshWait, s.config.Patience-time.Since(s.since)))
	defer patience.Stop()
	for {
		overdue := time.Since(s.since) >= s.config.Patience
		switch {
		case s.closed:
			return nil, &absentError{"the agent is stopping"}
		case s.current != nil && s.current.life.ctx.Err() == nil:
			s.current.refs++
			return s.current, nil
		case overdue && s.current == nil && s.ended >= fresh:
			return nil, &absentError{s.problem}
		}
		if !s.await(ctx, patience.C) {
			if ctx.Err() != nil {
				return nil, &lateError{}
			}
			return nil, &absentError{s.problem}
		}
	}
}

// await waits for a change, without the lock. It says whether there was one in time.
func (s *server) await(ctx context.Context, patience <-chan time.Time) bool {
	changed := s.changed
	s.mu.Unlock()
	defer s.mu.Lock()
	select {
	case s.kick <- struct{}{}:
	default:
	}
	select {
	case <-changed:
		return true
	case <-patience:
		return false
	case <-ctx.Done():
		return false
	}
}

func (s *server) release(used *session) {
	s.mu.Lock()
	used.refs--
	last := used.retired && used.refs == 0 && s.closable(used)
	s.mu.Unlock()
	if last {
		s.close(used)
	}
}

// closable says whether the caller is to close a session. It needs the lock.
func (s *server) closable(used *session) bool {
	if used.closing {
		return false
	}
	used.closing = true
	s.group.Add(1)
	return true
}

// retire gives a session no more calls. It is closed when the running ones have ended, or at once if they depend on
// a connection that is gone.
func (s *server) retire(used *session) {
	s.mu.Lock()
	used.retired = true
	now := (used.refs == 0 || !used.conn.drains()) && s.closable(used)
	s.mu.Unlock()
	used.life.end(errClosed)
	if now {
		go s.close(used)
	}
}

// close closes a session that closable chose.
func (s *server) close(used *session) {
	defer s.group.Done()
	used.conn.close()
	s.mu.Lock()
	delete(s.all, used)
	s.mu.Unlock()
}

// shutdown closes every session.
func (s *server) shutdown() {
	var left []*session
	s.update(func() {
		s.closed, s.current = true, nil
		for used := range s.all {
			if s.closable(used) {
				left = append(left, used)
			}
		}
	})
	for _, used := range left {
		go s.close(used)
	}
}

// backoff is growing delays between attempts.
type backoff struct{ last time.Duration }

const (
	firstDelay = 100 * time.Millisecond
	mostDelay  = 30 * time.Second
)

func (b *backoff) next() time.Duration {
	b.last = min(max(firstDelay, 2*b.last), mostDelay)
	return jitter(b.last)
}

// jitter is a random time between half of d and d.
func jitter(d time.Duration) time.Duration {
	if d < 2 {
		return d
	}
	return d/2 + rand.N(d/2)
}

// pause waits, and says whether it was not cut short.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
