package work

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
	"go.opentelemetry.io/otel/trace"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/telemetry"
)

// Defaults of a Config.
const (
	DefaultRetries     = 3
	DefaultSettleAfter = 30 * time.Second
)

const (
	// maxRequests is how many requests are worked on at once; others wait in the connection.
	maxRequests = 1 << 14
	// maxTakeOvers is how many of them read the journal of a task that is taken over, which may be long. Others wait their
	// turn. Without the bound, a service that cannot keep up would read a little for everybody, until all have given up
	// and ask anew.
	maxTakeOvers = 8
	// agentRequests and agentBytes are how much of that one agent has under way at once, over the connection: what all its
	// pods ask for and wait for. One that has more is told to ask again.
	agentRequests = maxRequests / 4
	agentBytes    = 64 << 20
)

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
	patience time.Duration   // of Account
	slots    chan struct{}
	taking   chan struct{}
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
		patience:  min(cfg.SettleAfter, accountPatience),
		slots:     make(chan struct{}, maxRequests),
		taking:    make(chan struct{}, maxTakeOvers),
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
	s.book.left = s.keepStrays
	stop, err := s.listen(ctx)
	if err != nil {
		return fmt.Errorf("start work service: %w", err)
	}
	s.running = ctx
	s.group.Go(func() { s.book.run(ctx) })
	s.group.Go(func() { s.followResults(ctx) })
	s.group.Go(func() { s.lookAfterWaiting(ctx) })
	s.group.Go(func() { s.lookAfterStrays(ctx) })
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
	shares := queue.NewShares(agentRequests, agentBytes)
	requests := func(m *nats.Msg) {
		done, ok := shares.Take(m.Subject, len(m.Data))
		if !ok {
			busy := &nats.Msg{Subject: m.Reply, Header: nats.Header{}}
			encodeFailure(busy, errShare)
			s.respond(busy)
			return
		}
		accepted := s.accept(ctx, func() {
			defer done()
			s.respond(s.handle(ctx, m))
		})
		if !accepted {
			done()
		}
	}
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

// Client makes a client in the same process, which asks the service without the detour over the server: what is asked
// and answered is passed on as it is, only payloads are encoded as on a connection.
func (s *Service) Client() *Client { return newClient(direct{s}) }

// direct passes requests to a service of the same process.
type direct struct{ s *Service }

func (d direct) RequestMsgWithContext(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	if err := d.s.Ready(ctx); err != nil {
		return nil, err
	}
	answers := make(chan *nats.Msg, 1)
	if !d.s.accept(d.s.running, func() { answers <- d.s.handle(d.s.running, m) }) {
		return nil, errStopping
	}
	select {
	case answer := <-answers:
		return answer, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// ask implements answerer.
func (d direct) ask(ctx context.Context, from caller, verb string, request, reply any) (told, lost error) {
	if err := d.s.Ready(ctx); err != nil {
		return nil, err
	}
	if r, ok := request.(appendRequest); ok {
		return d.append(ctx, from, r, reply)
	}
	type answer struct {
		reply any
		err   error
	}
	answers := make(chan answer, 1)
	running := d.running(ctx)
	accepted := d.s.accept(running, func() {
		reply, err := d.s.answer(running, from, verb, request)
		answers <- answer{reply, err}
	})
	if !accepted {
		return nil, errStopping
	}
	select {
	case a := <-answers:
		return pass(a.reply, a.err, reply), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// append works on an append in the goroutine of its caller, which may leave before it is decided.
func (d direct) append(ctx context.Context, from caller, r appendRequest, reply any) (told, lost error) {
	if !d.s.enter() {
		return nil, errStopping
	}
	defer d.s.group.Done()
	answer, err := d.s.appendFor(d.running(ctx), ctx.Done(), from, r)
	return pass(answer, err, reply), nil
}

// running is the service's context with the trace of a request's.
func (d direct) running(ctx context.Context) context.Context {
	span := trace.SpanContextFromContext(ctx)
	if !span.IsValid() {
		return d.s.running
	}
	return trace.ContextWithRemoteSpanContext(d.s.running, span)
}

// pass hands an answer to whoever asked in this process, and returns the failure that it would be on a connection.
func pass(answer any, err error, reply any) error {
	if err != nil {
		return newFailure(err).err()
	}
	reflect.ValueOf(reply).Elem().Set(reflect.ValueOf(answer).Elem())
	return nil
}

// accept works on a request beside the others. It says whether it does.
func (s *Service) accept(ctx context.Context, work func()) bool {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	if !s.enter() {
		<-s.slots
		return false
	}
	go func() {
		defer s.group.Done()
		defer func() { <-s.slots }()
		work()
	}()
	return true
}

// enter joins the service's group, which whoever enters leaves with Done, unless the service is about to end.
func (s *Service) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.group.Add(1)
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
	var body any
	c, verb, err := parseSubject(m.Subject)
	if err == nil && len(m.Data) > requestLimit && verb != verbAppend && verb != verbPut {
		err = refusef("a request of %d bytes, at most %d are taken", len(m.Data), requestLimit)
	}
	if err == nil {
		body, err = s.answer(queue.Extract(ctx, m.Header), c, verb, m)
	}
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

// answer works on a request: a message, or what one would carry.
func (s *Service) answer(ctx context.Context, c caller, verb string, m any) (any, error) {
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
			return s.put(ctx, c, r, bodyOf(m))
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

// call decodes a request, if it is a message, and has it answered.
func call[Request, Reply any](ctx context.Context, c caller, m any, f func(context.Context, caller, Request) (Reply, error)) (any, error) {
	switch m := m.(type) {
	case Request:
		return f(ctx, c, m)
	case *nats.Msg:
		var r Request
		if err := decode(m, &r); err != nil {
			return nil, refusef("%v", err)
		}
		return f(ctx, c, r)
	default:
		return nil, refusef("a %T is no request", m)
	}
}

func bodyOf(request any) []byte {
	if m, ok := request.(*nats.Msg); ok {
		return m.Data
	}
	return nil
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
