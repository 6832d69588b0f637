package identity

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// Service is a group of subjects in ark's account that agents may send to.
type Service struct {
	Subject string // a pattern
	// Streamed services answer a request more than once; all others once or not at all.
	Streamed bool
	// Patience is how long an answer, or the next one, is waited for. It bounds what requests that are never answered
	// take up.
	Patience time.Duration
}

// Grants are what an agent may do beyond its own account. Every subject must be covered by one that the account of ark
// offers.
type Grants struct {
	Send   []string // subjects to send to, answers included
	Listen []string // subjects to subscribe to
}

// Limits bound what one agent takes up.
type Limits struct {
	Connections   int64
	Subscriptions int64 // of all its connections together
	Payload       int64 // bytes of a message
}

// Config says what the accounts offer each other.
type Config struct {
	Services []Service          // of ark's account, to agents
	Streams  []string           // of ark's account, to agents
	Grants   func(Agent) Grants // what an agent uses of both
	Limits   Limits             // of each agent
}

// Accounts tells a server who may connect. It is a server's account resolver: one of ark's own account and of the agents
// that were allowed, and nobody else. It is safe for concurrent use.
type Accounts struct {
	cfg Config
	// operator signs accounts, and owner the logins to ark's own. They live as long as the process. Nothing of ark's own
	// account ever changes: the server would forget how to answer what agents have asked.
	operator, owner nkeys.KeyPair

	change sync.Mutex // one change at a time, told to the server before the next

	mu        sync.Mutex
	authority *Authority
	ns        *server.Server    // nil before the start
	tokens    map[string]string // of accounts, by name
	agents    map[string]Agent  // by account
}

// NewAccounts makes the accounts: ark's own, and none of agents yet.
func NewAccounts(authority *Authority, cfg Config) (*Accounts, error) {
	if authority == nil || len(authority.keys) == 0 {
		return nil, errors.New("make accounts: the authority is missing")
	}
	operator, err := nkeys.CreateOperator()
	if err != nil {
		return nil, fmt.Errorf("make accounts: %w", err)
	}
	owner, err := nkeys.CreateAccount()
	if err != nil {
		return nil, fmt.Errorf("make accounts: %w", err)
	}
	a := &Accounts{cfg: cfg, operator: operator, owner: owner, authority: authority, tokens: map[string]string{}, agents: map[string]Agent{}}
	// The server's own account has no signing key: nobody can log in to it.
	main, err := a.mainClaims()
	if err != nil {
		return nil, fmt.Errorf("make accounts: %w", err)
	}
	for _, c := range []*jwt.AccountClaims{jwt.NewAccountClaims(systemAccount()), main} {
		if a.tokens[c.Subject], err = c.Encode(operator); err != nil {
			return nil, fmt.Errorf("make accounts: %w", err)
		}
	}
	return a, nil
}

// Apply has a server's options ask the accounts and nobody else.
func (a *Accounts) Apply(o *server.Options) error {
	public, err := a.operator.PublicKey()
	if err != nil {
		return err
	}
	o.TrustedKeys = []string{public}
	o.AccountResolver = a
	o.SystemAccount = systemAccount()
	return nil
}

// Allow lets an agent in. It is fine when it is in already.
func (a *Accounts) Allow(agent Agent) error {
	if err := agent.validate(); err != nil {
		return fmt.Errorf("allow: %w", err)
	}
	a.change.Lock()
	defer a.change.Unlock()
	a.mu.Lock()
	_, known := a.agents[agent.account()]
	a.agents[agent.account()] = agent
	a.mu.Unlock()
	if known {
		return nil
	}
	if err := a.tell(a.agentClaims(agent)); err != nil {
		return fmt.Errorf("allow agent %s: %w", agent, err)
	}
	return nil
}

// Remove cuts an agent off: when it returns, its connections are closed and its credentials refused. It is fine when the
// agent is not there.
func (a *Accounts) Remove(agent Agent) error {
	a.change.Lock()
	defer a.change.Unlock()
	name := agent.account()
	a.mu.Lock()
	_, known := a.agents[name]
	ns := a.ns
	a.mu.Unlock()
	if !known {
		return nil
	}
	var account *server.Account
	if ns != nil {
		// Loaded before its claims are forgotten, so that no connection that is being made brings it in afterwards.
		var err error
		if account, err = ns.LookupAccount(name); err != nil {
			return fmt.Errorf("remove agent %s: %w", agent, err)
		}
	}
	a.mu.Lock()
	delete(a.agents, name)
	delete(a.tokens, name)
	a.mu.Unlock()
	if account != nil {
		ns.UpdateAccountClaims(account, closed(name))
	}
	return nil
}

// Agents are those that are let in, in no order.
func (a *Accounts) Agents() []Agent {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make([]Agent, 0, len(a.agents))
	for _, agent := range a.agents {
		all = append(all, agent)
	}
	return all
}

// Use replaces the authority. Connections whose credentials were signed with a key that it does not accept are closed.
func (a *Accounts) Use(authority *Authority) error {
	if authority == nil || len(authority.keys) == 0 {
		return errors.New("replace the authority: there is none")
	}
	a.change.Lock()
	defer a.change.Unlock()
	a.mu.Lock()
	a.authority = authority
	claims := make([]*jwt.AccountClaims, 0, len(a.agents))
	for _, agent := range a.agents {
		claims = append(claims, a.agentClaims(agent))
	}
	a.mu.Unlock()
	var errs []error
	for _, c := range claims {
		errs = append(errs, a.tell(c))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("replace the authority: %w", err)
	}
	return nil
}

// tell stores claims, and passes them on to a server that knows the account.
func (a *Accounts) tell(c *jwt.AccountClaims) error {
	token, err := c.Encode(a.operator)
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.tokens[c.Subject] = token
	ns := a.ns
	a.mu.Unlock()
	if ns == nil {
		return nil
	}
	account, err := ns.LookupAccount(c.Subject)
	if err != nil {
		return fmt.Errorf("account %s: %w", c.Subject, err)
	}
	ns.UpdateAccountClaims(account, c)
	return nil
}

// Login is the option of a connection into ark's own account, for this process only.
func (a *Accounts) Login() (nats.Option, error) {
	user, err := nkeys.CreateUser()
	if err != nil {
		return nil, fmt.Errorf("make a user: %w", err)
	}
	token, err := encodeUser(user, a.owner, mainAccount(), "ark", 0)
	if err != nil {
		return nil, fmt.Errorf("make a user: %w", err)
	}
	return nats.UserJWT(func() (string, error) { return token, nil }, user.Sign), nil
}

func (a *Accounts) mainClaims() (*jwt.AccountClaims, error) {
	public, err := a.owner.PublicKey()
	if err != nil {
		return nil, err
	}
	c := newClaims(mainAccount(), "ark", public)
	c.Limits.JetStreamLimits = jwt.JetStreamLimits{
		MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit,
		MaxAckPending: jwt.NoLimit, MemoryMaxStreamBytes: jwt.NoLimit, DiskMaxStreamBytes: jwt.NoLimit,
	}
	for _, s := range a.cfg.Services {
		kind := jwt.ResponseType(jwt.ResponseTypeSingleton)
		if s.Streamed {
			kind = jwt.ResponseTypeStream
		}
		c.Exports.Add(&jwt.Export{
			Subject: jwt.Subject(s.Subject), Type: jwt.Service, ResponseType: kind, ResponseThreshold: s.Patience,
		})
	}
	for _, s := range a.cfg.Streams {
		c.Exports.Add(&jwt.Export{Subject: jwt.Subject(s), Type: jwt.Stream})
	}
	return c, nil
}

func (a *Accounts) agentClaims(agent Agent) *jwt.AccountClaims {
	c := newClaims(agent.account(), agent.String(), a.authority.public()...)
	g := a.cfg.Grants(agent)
	for _, s := range g.Send {
		c.Imports.Add(&jwt.Import{Account: mainAccount(), Subject: jwt.Subject(s), Type: jwt.Service})
	}
	for _, s := range g.Listen {
		c.Imports.Add(&jwt.Import{Account: mainAccount(), Subject: jwt.Subject(s), Type: jwt.Stream})
	}
	c.Limits.Conn = a.cfg.Limits.Connections
	c.Limits.Subs = a.cfg.Limits.Subscriptions
	c.Limits.Payload = a.cfg.Limits.Payload
	c.Limits.Exports, c.Limits.WildcardExports = 0, false
	c.DefaultPermissions = jwt.Permissions{
		Pub: jwt.Permission{Allow: g.Send},
		Sub: jwt.Permission{Allow: append([]string{nats.InboxPrefix + ">"}, g.Listen...)},
	}
	return c
}

// newClaims are of an account that can do nothing yet.
func newClaims(account, name string, keys ...string) *jwt.AccountClaims {
	c := jwt.NewAccountClaims(account)
	c.Name = name
	c.Limits.LeafNodeConn, c.Limits.DisallowBearer = 0, true
	c.SigningKeys.Add(keys...)
	return c
}

// closed are the claims of an account that has ended: no key lets anybody in, and nobody may be in.
func closed(account string) *jwt.AccountClaims {
	c := jwt.NewAccountClaims(account)
	c.Limits.Conn, c.Limits.Subs, c.Limits.Payload, c.Limits.LeafNodeConn = 0, 0, 0, 0
	return c
}

// Fetch returns the account of a name to the server.
func (a *Accounts) Fetch(name string) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	token, ok := a.tokens[name]
	if !ok {
		return "", errors.New("no such account")
	}
	return token, nil
}

// Start is called by the server. A server that runs is told of what changes from here on.
func (a *Accounts) Start(ns *server.Server) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ns = ns
	return nil
}

// Store refuses: accounts come from Allow only.
func (a *Accounts) Store(string, string) error {
	return errors.New("accounts are not taken from outside")
}

// IsReadOnly is true: see Store.
func (a *Accounts) IsReadOnly() bool { return true }

// IsTrackingUpdate is true: the server is told of changes.
func (a *Accounts) IsTrackingUpdate() bool { return true }

// Reload has nothing to read again.
func (a *Accounts) Reload() error { return nil }

// Close has nothing to close.
func (a *Accounts) Close() {}
