// Package identity says who may do what on the embedded NATS server: one account for ark itself, which owns every
// stream, and one account for each agent, which imports exactly what that agent needs and has nothing else.
//
// # Who is who
//
// An account is named by a hash: of "ark" for ark's own, of namespace, name and uid for an agent's. So an agent that is
// made anew under the same name is another one, the streams belong to the same account whatever happens to the keys,
// and nothing has to be kept for an agent. NATS takes such a name for a public key, but nobody has, or ever had, the
// private half. What counts are the signing keys of the Authority: they sign the credentials of agents. The accounts
// themselves are told to the server by the process that runs it, signed with a key that lives as long as that process;
// no account can be brought in from outside.
//
// # What an agent can do
//
// Credentials let a process into its agent's account. There it may publish to the subjects of its Grants, and only to
// those, and subscribe to its inboxes and the streams of its Grants. Two walls stand one behind the other: permissions
// of the user refuse everything else, and the account has nothing else to reach: no JetStream of its own, no import.
// A reply subject is a subject of the agent's own account, whatever it says: the server puts a one-time subject in its
// place before a request enters ark's account. It leaves replies that begin with $JS.ACK as they are, which is why the
// names of the consumers of tasks are secret: nobody can name the task of another agent there.
//
// # What is not isolated
//
// All processes of one agent are one identity: they can read each other's answers, and acknowledge and hand back each
// other's tasks. Whoever holds an agent's credentials can do what the agent can, until they expire or the agent is
// removed. An agent sees the server's name and version, its own connections, and stream sequence numbers in the reply
// subjects of its tasks, which tell how many tasks all agents together were given. Capacity is shared: Limits bound what
// one agent can take up, but a busy one makes others wait. A server outside this process is configured by its
// administrator: what isolates agents there is what the administrator set up, and with one user for all of them it is
// nothing at all.
package identity

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// Agent is who has an account: the agent's namespace and name, and the uid that tells it from earlier ones of the same
// name.
type Agent struct {
	Namespace, Name, UID string
}

func (a Agent) String() string { return a.Namespace + "/" + a.Name }

func (a Agent) validate() error {
	if a.Namespace == "" || a.Name == "" || a.UID == "" {
		return fmt.Errorf("agent %s with uid %q: namespace, name and uid must not be empty", a, a.UID)
	}
	return nil
}

// account is the name of the agent's account.
func (a Agent) account() string { return accountName("agent", a.Namespace, a.Name, a.UID) }

// mainAccount is the name of ark's own account. It is the folder of the streams on disk, too, and never changes.
func mainAccount() string { return accountName("ark") }

// systemAccount is the name of the account in which the server speaks to itself.
func systemAccount() string { return accountName("system") }

// accountName hashes parts, each with its length before it.
func accountName(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteString(strconv.Itoa(len(p)) + ":" + p)
	}
	sum := sha256.Sum256([]byte("ark account " + b.String()))
	name, err := nkeys.Encode(nkeys.PrefixByteAccount, sum[:])
	if err != nil {
		panic(err) // the prefix is a constant of the library
	}
	return string(name)
}

// Authority signs credentials. It has one signing key or more: the newest signs, all of them are accepted. It does not
// change; Rotate and Retire return another one.
type Authority struct {
	keys []signer // newest first
}

type signer struct {
	pair   nkeys.KeyPair
	public string
	made   time.Time
}

// document is an Authority as bytes.
type document struct {
	Version int           `json:"version"`
	Keys    []documentKey `json:"keys"`
}

type documentKey struct {
	Seed string    `json:"seed"`
	Made time.Time `json:"made"`
}

const documentVersion = 1

// NewAuthority makes an authority with one key.
func NewAuthority(now time.Time) (*Authority, error) { return (&Authority{}).Rotate(now) }

// ParseAuthority reads what Bytes has written. The errors never show a key.
func ParseAuthority(data []byte) (*Authority, error) {
	var d document
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, errors.New("read the authority: it is not JSON that ark has written")
	}
	if d.Version != documentVersion {
		return nil, fmt.Errorf("read the authority: it has version %d, this ark reads version %d", d.Version, documentVersion)
	}
	if len(d.Keys) == 0 {
		return nil, errors.New("read the authority: it has no key")
	}
	a := &Authority{}
	for i, k := range d.Keys {
		s, err := newSigner([]byte(k.Seed), k.Made)
		if err != nil {
			return nil, fmt.Errorf("read the authority: key %d is not the seed of an account key", i+1)
		}
		a.keys = append(a.keys, s)
	}
	return a, nil
}

func newSigner(seed []byte, made time.Time) (signer, error) {
	pair, err := nkeys.FromSeed(seed)
	if err != nil {
		return signer{}, err
	}
	public, err := pair.PublicKey()
	if err != nil {
		return signer{}, err
	}
	if !nkeys.IsValidPublicAccountKey(public) {
		return signer{}, errors.New("not an account key")
	}
	return signer{pair: pair, public: public, made: made}, nil
}

// Bytes are the authority with its private keys, to be kept in a Secret.
func (a *Authority) Bytes() ([]byte, error) {
	d := document{Version: documentVersion}
	for _, k := range a.keys {
		seed, err := k.pair.Seed()
		if err != nil {
			return nil, fmt.Errorf("write the authority: %w", err)
		}
		d.Keys = append(d.Keys, documentKey{Seed: string(seed), Made: k.made})
	}
	out, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("write the authority: %w", err)
	}
	return out, nil
}

// Rotate returns an authority that signs with a new key and still accepts the ones before.
func (a *Authority) Rotate(now time.Time) (*Authority, error) {
	pair, err := nkeys.CreateAccount()
	if err != nil {
		return nil, fmt.Errorf("make a signing key: %w", err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("make a signing key: %w", err)
	}
	return &Authority{keys: append([]signer{{pair, public, now.UTC()}}, a.keys...)}, nil
}

// Retire returns an authority that accepts only the newest key and those that were still the newest at a time: what
// others have signed was signed before it.
func (a *Authority) Retire(before time.Time) *Authority {
	keep := 1
	for keep < len(a.keys) && a.keys[keep-1].made.After(before) {
		keep++
	}
	return &Authority{keys: a.keys[:keep:keep]}
}

// Made is when the newest key was made.
func (a *Authority) Made() time.Time { return a.keys[0].made }

// Keys is how many signing keys are accepted.
func (a *Authority) Keys() int { return len(a.keys) }

// Credentials makes a file for the processes of an agent, as nats.UserCredentials reads it. Every call makes other ones;
// all of them are good until they expire or their agent is removed.
func (a *Authority) Credentials(agent Agent, now time.Time, lifetime time.Duration) ([]byte, error) {
	if err := agent.validate(); err != nil {
		return nil, fmt.Errorf("make credentials: %w", err)
	}
	if lifetime < time.Second {
		return nil, fmt.Errorf("make credentials of agent %s: a lifetime of %s is too short", agent, lifetime)
	}
	user, err := nkeys.CreateUser()
	if err != nil {
		return nil, fmt.Errorf("make credentials of agent %s: %w", agent, err)
	}
	token, err := encodeUser(user, a.keys[0].pair, agent.account(), agent.String(), now.Add(lifetime).Unix())
	if err != nil {
		return nil, fmt.Errorf("make credentials of agent %s: %w", agent, err)
	}
	seed, err := user.Seed()
	if err != nil {
		return nil, fmt.Errorf("make credentials of agent %s: %w", agent, err)
	}
	file, err := jwt.FormatUserConfig(token, seed)
	if err != nil {
		return nil, fmt.Errorf("make credentials of agent %s: %w", agent, err)
	}
	return file, nil
}

func (a *Authority) public() []string {
	keys := make([]string, 0, len(a.keys))
	for _, k := range a.keys {
		keys = append(keys, k.public)
	}
	return keys
}

// encodeUser lets the holder of a key into an account, until a time if it is not 0. What it may do there is the account's
// to say.
func encodeUser(user, signer nkeys.KeyPair, account, name string, expires int64) (string, error) {
	public, err := user.PublicKey()
	if err != nil {
		return "", err
	}
	c := jwt.NewUserClaims(public)
	c.Name, c.IssuerAccount, c.Expires = name, account, expires
	c.AllowedConnectionTypes = jwt.StringList{jwt.ConnectionTypeStandard, jwt.ConnectionTypeInProcess}
	return c.Encode(signer)
}

// Expiry is when credentials end, which is when to have replaced them.
func Expiry(credentials []byte) (time.Time, error) {
	token, err := jwt.ParseDecoratedJWT(credentials)
	if err != nil {
		return time.Time{}, fmt.Errorf("read credentials: %w", err)
	}
	c, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return time.Time{}, fmt.Errorf("read credentials: %w", err)
	}
	return time.Unix(c.Expires, 0), nil
}

// Signed says whether credentials are of an agent and signed with the authority's newest key. Others still work, while
// their key is accepted, but should be replaced.
func (a *Authority) Signed(credentials []byte, agent Agent) bool {
	token, err := jwt.ParseDecoratedJWT(credentials)
	if err != nil {
		return false
	}
	c, err := jwt.DecodeUserClaims(token)
	return err == nil && c.Issuer == a.keys[0].public && c.IssuerAccount == agent.account()
}
