package work

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/telemetry"
)

// Defaults of a Config.
const (
	DefaultRetries     = 3
	DefaultSettleAfter = 30 * time.Second
)

// maxRequests is how many requests are worked on at once; others wait in the connection.
const maxRequests = 1 << 14

// Config is what the service does not read from the streams. All of it may be left out.
type Config struct {
	// Daily returns the rolling budgets of an agent and of the team of a run, such as {"agent.<name>", limit, 86400}. For
	// the agent's probes, which belong to no run, team is empty: the agent's own team counts, if it is of one. It is
	// called for every reservation, by many goroutines.
	Daily func(namespace, agent, team string) []task.Budget
	// Retries returns how often a task of an agent is taken over after the process that held it has died, before it
	// fails with PoisonTask; DefaultRetries without the function.
	Retries func(namespace, agent string) int
	// SettleAfter is how long calls of a task that got its result meanwhile may still tell what they used, before
	// they are charged in full; DefaultSettleAfter if 0.
	SettleAfter time.Duration
	// Reported hears of each agent of which a report said something new, see Service.Reports. It must not block. Pods that
	// fall silent are not told of: their reports only count no more after ReportTTL.
	Reported  func(namespace, agent string)
	Now       func() time.Time     // the broker's clock; time.Now if nil
	Logger    *slog.Logger         // slog.Default() if nil
	Telemetry *telemetry.Telemetry // off if nil
}

func (c *Config) setDefaults() error {
	if c.SettleAfter < 0 {
		return fmt.Errorf("SettleAfter: %s is negative", c.SettleAfter)
	}
	if c.SettleAfter == 0 {
		c.SettleAfter = DefaultSettleAfter
	}
	if c.Daily == nil {
		c.Daily = func(string, string, string) []task.Budget { return nil }
	}
	if c.Retries == nil {
		c.Retries = func(string, string) int { return DefaultRetries }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return nil
}

// Service answers the requests of agents. Several may run at once, in one process or in many.
type Service struct {
	cfg      Config
	q        *queue.Queue
	nc       *nats.Conn
	instance string
	book     *book
	uploads  *uploads
	results  *results
	memories *memories
	probes   *queue.Bucket
	reports  *reports
	ready    chan struct{}
	running  context.Context // of Run, after ready
	slots    chan struct{}
	group    sync.WaitGroup // of requests and what follows from them

	mu        sync.Mutex
	stopping  bool
	appends   map[appendKey]*running // that are not decided yet
	takeOvers map[takeOverKey]*takeOverRun
	strays    map[queue.Key]map[scopeKey]bool
}

// appendKey names an append, however often it is asked for.
type appendKey struct {
	key   queue.Key
	epoch int
	n     int
	id    string
}

// NewService makes a service that writes with q and listens on nc. Both stay the caller's.
func NewService(q *queue.Queue, nc *nats.Conn, cfg Config) (*Service, error) {
	if q == nil || nc == nil {
		return nil, errors.New("work service: the queue or the connection is missing")
	}
	if err := cfg.setDefaults(); err != nil {
		return nil, fmt.Errorf("work service: %w", err)
	}
	s := &Service{
		cfg: cfg, q: q, nc: nc, instance: nuid.Next(),
		book:      newBook(q, cfg.Now, cfg.Logger),
		uploads:   newUploads(q),
		results:   newResults(),
		memories:  newMemories(q, cfg.Now),
		probes:    q.Bucket(queue.BucketProbes),
		reports:   newReports(),
		ready:     make(chan struct{}),
		slots:     make(chan struct{}, maxRequests),
		appends:   map[appendKey]*running{},
		takeOvers: map[takeOverKey]*takeOverRun{},
		strays:    map[queue.Key]map[scopeKey]bool{},
	}
	return s, nil
}

// Ready returns when the service takes requests, or the context ends.
func (s *Service) Ready(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the work service: %w", context.Cause(ctx))
	}
}

// Run answers requests until the context ends; then it brings what is being written to its end and returns nil. It
// runs once. The error is of the start.
func (s *Service) Run(ctx context.Context) error {
	s.book.loaded = func(b *scope) { s.findStrays(ctx, b) }
	stop, err := s.listen(ctx)
	if err != nil {
		return fmt.Errorf("start work service: %w", err)
	}
	s.running = ctx
	s.group.Go(func() { s.book.run(ctx) })
	s.group.Go(func() { s.followResults(ctx) })
	s.group.Go(func() { s.lookAfterWaiting(ctx) })
	close(s.ready)
	<-ctx.Done()
	stop()
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	s.uploads.close()
	s.group.Wait()
	return nil
}

// listen subscribes and returns when the server knows of it.
func (s *Service) listen(ctx context.Context) (stop func(), err error) {
	requests := func(m *nats.Msg) { s.accept(ctx, m, s.respond) }
	all, err := s.nc.QueueSubscribe("ark.work.*.*.*", "ark-work", requests)
	if err != nil {
		return nil, err
	}
	own, err := s.nc.Subscribe("ark.work.*.*."+queue.Token(verbPut)+"."+queue.Token(s.instance), requests)
	if err != nil {
		return nil, errors.Join(err, all.Unsubscribe())
	}
	heard, err := s.nc.Subscribe(reportsSubject+"*.*", s.hear)
	if err != nil {
		return nil, errors.Join(err, all.Unsubscribe(), own.Unsubscribe())
	}
	desk, err := s.q.ServeAgents(ctx)
	if err != nil {
		return nil, errors.Join(err, all.Unsubscribe(), own.Unsubscribe(), heard.Unsubscribe())
	}
	stop = func() {
		_ = errors.Join(all.Unsubscribe(), own.Unsubscribe(), heard.Unsubscribe())
		desk()
	}
	if err := s.nc.FlushTimeout(answerTimeout); err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

// Client makes a client in the same process, which asks the service without the detour over the server. Everything
// else is the same: what is asked and answered is encoded as on a connection.
func (s *Service) Client() *Client { return newClient(direct{s}) }

// direct passes requests to a service of the same process.
type direct struct{ s *Service }

func (d direct) RequestMsgWithContext(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	if err := d.s.Ready(ctx); err != nil {
		return nil, err
	}
	answers := make(chan *nats.Msg, 1)
	if !d.s.accept(d.s.running, m, func(answer *nats.Msg) { answers <- answer }) {
		return nil, errStopping
	}
	select {
	case answer := <-answers:
		return answer, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// accept works on a request beside the others. It says whether it does.
func (s *Service) accept(ctx context.Context, m *nats.Msg, reply func(*nats.Msg)) bool {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.group.Go(func() {
		defer func() { <-s.slots }()
		reply(s.handle(ctx, m))
	})
	return true
}

// respond sends an answer over the connection.
func (s *Service) respond(answer *nats.Msg) {
	if !queue.Answerable(answer.Subject) {
		return
	}
	if err := s.nc.PublishMsg(answer); err != nil {
		s.cfg.Logger.Debug("answer was not sent", "error", err)
	}
}

func (s *Service) handle(ctx context.Context, m *nats.Msg) *nats.Msg {
	answer := &nats.Msg{Subject: m.Reply, Header: nats.Header{}}
	body, err := s.answer(queue.Extract(ctx, m.Header), m)
	if chunk, ok := body.(chunk); ok && err == nil {
		answer.Data = chunk
	} else if err == nil {
		err = encode(answer, body, nil)
	}
	if err == nil && int64(len(answer.Data)) > s.nc.MaxPayload()-headerRoom {
		err = refusef("the answer has %d bytes, which is more than a message holds", len(answer.Data))
	}
	if err != nil {
		answer.Data = nil
		encodeFailure(answer, err)
	}
	return answer
}

// headerRoom is left in a message for its headers, in bytes.
const headerRoom = 4 << 10

// chunk is the body of an answer that is not JSON.
type chunk []byte

// caller is who asks, by the subject of the request.
type caller struct{ namespace, agent string }

func (c caller) key(h holder) queue.Key {
	return queue.Key{Namespace: c.namespace, Agent: c.agent, RunUID: h.Run, TaskID: h.Task}
}

func (s *Service) answer(ctx context.Context, m *nats.Msg) (any, error) {
	c, verb, err := parseSubject(m.Subject)
	if err != nil {
		return nil, err
	}
	switch verb {
	case verbTakeOver:
		return call(ctx, c, m, s.takeOver)
	case verbJournal:
		return call(ctx, c, m, s.journal)
	case verbAppend:
		return call(ctx, c, m, s.append)
	case verbWithdraw:
		return call(ctx, c, m, s.withdraw)
	case verbDelegate:
		return call(ctx, c, m, s.delegate)
	case verbAwait:
		return call(ctx, c, m, s.await)
	case verbRelease:
		return call(ctx, c, m, s.release)
	case verbPut:
		return call(ctx, c, m, func(ctx context.Context, c caller, r putRequest) (*putReply, error) {
			return s.put(ctx, c, r, m.Data)
		})
	case verbProbe:
		return call(ctx, c, m, s.probe)
	case verbVerdict:
		return call(ctx, c, m, s.verdict)
	case verbReport:
		return call(ctx, c, m, s.report)
	case verbGet:
		return call(ctx, c, m, s.get)
	case verbMemoryPut:
		return call(ctx, c, m, s.memoryPut)
	case verbMemoryGet:
		return call(ctx, c, m, s.memoryGet)
	default:
		return nil, refusef("the work service knows no request %q; is it older than the agent?", verb)
	}
}

// call decodes a request and has it answered.
func call[Request, Reply any](ctx context.Context, c caller, m *nats.Msg, f func(context.Context, caller, Request) (Reply, error)) (any, error) {
	var r Request
	if err := decode(m, &r); err != nil {
		return nil, refusef("%v", err)
	}
	return f(ctx, c, r)
}

// parseSubject reads ark.work.<namespace>.<agent>.<verb>, perhaps with an instance behind it.
func parseSubject(subject string) (c caller, verb string, err error) {
	tokens := strings.Split(subject, ".")
	if len(tokens) < 5 {
		return caller{}, "", refusef("subject %q is not one of the work service", subject)
	}
	for i, to := range []*string{&c.namespace, &c.agent, &verb} {
		if *to, err = queue.Untoken(tokens[2+i]); err != nil {
			return caller{}, "", refusef("subject %q: %v", subject, err)
		}
	}
	return c, verb, nil
}
