package operator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/certificate"
	"arkonis.dev/ark/pkg/controller"
	"arkonis.dev/ark/pkg/kube"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/queue/identity"
)

// keysName is the Secret with the keys of the embedded queue: the authority that signs agents' credentials, and the
// certificates of its port. They are not on the queue's volume, so that a copy of the volume lets nobody in.
const keysName = "ark-queue-keys"

const (
	keyAuthority    = "authority"
	keyCertificates = "certificates"

	// credentialsLife is how long credentials are good for; they are replaced after half of it.
	credentialsLife = 7 * 24 * time.Hour
	// signingLife is how long one key signs.
	signingLife = 90 * 24 * time.Hour
	// keysRetry is the pause after keys could not be renewed.
	keysRetry = time.Minute
)

// keys are the keys of the embedded queue. They are safe for concurrent use.
type keys struct {
	secrets corev1client.SecretInterface
	url     string   // where agents reach the queue
	hosts   []string // names that its certificate is good for
	log     *slog.Logger
	now     func() time.Time
	cert    *queue.Certificate

	mu        sync.Mutex
	authority *identity.Authority
	chain     *certificate.Chain
	again     time.Time
}

// openKeys reads the keys, or makes them when there are none.
func openKeys(ctx context.Context, c *Config) (*keys, error) {
	hosts := []string{"localhost", "127.0.0.1", "::1"}
	if u, err := url.Parse(c.Queue.Advertise); err == nil && u.Hostname() != "" {
		hosts = append([]string{u.Hostname()}, hosts...)
	}
	k := &keys{
		secrets: c.Clients.Core.CoreV1().Secrets(c.Namespace), url: c.Queue.Advertise, hosts: hosts, log: c.Logger, now: time.Now,
	}
	if _, err := k.renew(ctx); err != nil {
		return nil, err
	}
	return k, nil
}

// renew brings the keys up to date, in the Secret and here. changed says that credentials or what agents trust have to
// be looked at again.
func (k *keys) renew(ctx context.Context) (changed bool, err error) {
	for range 5 {
		changed, err = k.renewOnce(ctx)
		if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			break
		}
	}
	if err != nil {
		return false, fmt.Errorf("keys of the queue (Secret %s): %w", keysName, err)
	}
	return changed, nil
}

func (k *keys) renewOnce(ctx context.Context) (bool, error) {
	secret, err := k.secrets.Get(ctx, keysName, metav1.GetOptions{})
	exists := err == nil
	if !exists && !apierrors.IsNotFound(err) {
		return false, err
	}
	authority, chain, again, err := k.next(secret.Data)
	if err != nil {
		return false, err
	}
	data, err := encodeKeys(authority, chain)
	if err != nil {
		return false, err
	}
	if !exists || !bytes.Equal(data[keyAuthority], secret.Data[keyAuthority]) || !bytes.Equal(data[keyCertificates], secret.Data[keyCertificates]) {
		if err := k.store(ctx, secret, exists, data); err != nil {
			return false, err
		}
	}
	return k.use(authority, chain, again)
}

// next are the keys that hold now, and when that has to be asked again.
func (k *keys) next(data map[string][]byte) (authority *identity.Authority, chain *certificate.Chain, again time.Time, err error) {
	now := k.now()
	if stored := data[keyAuthority]; len(stored) > 0 {
		authority, err = identity.ParseAuthority(stored)
	} else {
		authority, err = identity.NewAuthority(now)
	}
	if err != nil {
		return nil, nil, again, err
	}
	if now.Sub(authority.Made()) >= signingLife {
		if authority, err = authority.Rotate(now); err != nil {
			return nil, nil, again, err
		}
	}
	authority = authority.Retire(now.Add(-credentialsLife))
	if stored := data[keyCertificates]; len(stored) > 0 {
		if chain, err = certificate.Parse(stored); err != nil {
			return nil, nil, again, err
		}
	}
	if chain, again, err = chain.Next("ark queue", k.hosts, now); err != nil {
		return nil, nil, again, err
	}
	for _, t := range []time.Time{authority.Made().Add(signingLife), authority.Made().Add(credentialsLife)} {
		if t.After(now) && t.Before(again) {
			again = t
		}
	}
	return authority, chain, again, nil
}

func encodeKeys(authority *identity.Authority, chain *certificate.Chain) (map[string][]byte, error) {
	a, err := authority.Bytes()
	if err != nil {
		return nil, err
	}
	c, err := chain.Bytes()
	if err != nil {
		return nil, err
	}
	return map[string][]byte{keyAuthority: a, keyCertificates: c}, nil
}

func (k *keys) store(ctx context.Context, old *corev1.Secret, exists bool, data map[string][]byte) error {
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: keysName, Labels: map[string]string{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy}},
		Type:       corev1.SecretTypeOpaque, Data: data,
	}
	if !exists {
		_, err := k.secrets.Create(ctx, secret, metav1.CreateOptions{FieldManager: kube.FieldManager})
		return err
	}
	if old.Labels[v1alpha1.LabelManagedBy] != v1alpha1.ManagedBy {
		return fmt.Errorf("%w: a Secret with this name exists that ark did not make; rename or remove it", kube.ErrConflict)
	}
	secret.ResourceVersion = old.ResourceVersion
	_, err := k.secrets.Update(ctx, secret, metav1.UpdateOptions{FieldManager: kube.FieldManager})
	return err
}

// use takes keys over that are stored.
func (k *keys) use(authority *identity.Authority, chain *certificate.Chain, again time.Time) (changed bool, err error) {
	if k.cert == nil {
		k.cert, err = queue.NewCertificate(chain.Server.Certificate, chain.Server.Key)
	} else {
		err = k.cert.Replace(chain.Server.Certificate, chain.Server.Key)
	}
	if err != nil {
		return false, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	changed = k.chain != nil && !bytes.Equal(k.chain.Bundle(), chain.Bundle()) ||
		k.authority != nil && (k.authority.Keys() != authority.Keys() || !k.authority.Made().Equal(authority.Made()))
	k.authority, k.chain, k.again = authority, chain, again
	return changed, nil
}

func (k *keys) current() (*identity.Authority, time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.authority, k.again
}

// run renews the keys when they are due, until ctx ends. renewed is called after each change.
func (k *keys) run(ctx context.Context, accounts *identity.Accounts, renewed func()) {
	for {
		_, again := k.current()
		wait := max(again.Sub(k.now()), keysRetry)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		changed, err := k.renew(ctx)
		if err == nil && changed {
			authority, _ := k.current()
			err = accounts.Use(authority)
			renewed()
		}
		if err != nil && ctx.Err() == nil {
			k.log.ErrorContext(ctx, "keys of the queue were not renewed, it is tried again", "error", err)
		}
	}
}

// access is how an agent reaches the queue.
type access struct {
	Credentials []byte    // the file of NATS_CREDS
	CA          []byte    // that the server's certificate is checked with; empty for the system's own
	URL         string    //
	RenewAt     time.Time // when to ask again; zero for never
}

// access returns how an agent reaches the queue. current is the agent's credentials now, or nil: they are kept while they
// are good.
func (k *keys) access(agent identity.Agent, current []byte) (access, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	a := access{Credentials: current, CA: k.chain.Bundle(), URL: k.url}
	expiry, err := identity.Expiry(current)
	if err != nil || !k.authority.Signed(current, agent) || expiry.Sub(now) <= credentialsLife/2 {
		if a.Credentials, err = k.authority.Credentials(agent, now, credentialsLife); err != nil {
			return access{}, err
		}
		expiry = now.Add(credentialsLife)
	}
	a.RenewAt = expiry.Add(-credentialsLife / 2)
	return a, nil
}

var errNoAdvertise = errors.New("operator: the queue's port needs the address that agents reach it by")

// followAgents lets every ArkAgent's pods into the embedded queue. When it is removed they are told, or the calls that they
// make would go on for as long as they have to end in, and cut off. It is called before the cache runs: every agent that
// there is has been let in when the cache is synced.
func (o *Operator) followAgents() error {
	let, cut := func(*v1alpha1.ArkAgent) error { return nil }, func(*v1alpha1.ArkAgent) error { return nil }
	if o.queue.keys != nil {
		accounts := o.queue.server.Accounts()
		who := func(a *v1alpha1.ArkAgent) identity.Agent {
			return identity.Agent{Namespace: a.Namespace, Name: a.Name, UID: string(a.UID)}
		}
		let = func(a *v1alpha1.ArkAgent) error { return accounts.Allow(who(a)) }
		cut = func(a *v1alpha1.ArkAgent) error { return accounts.Remove(who(a)) }
	}
	return o.cache.Agents.OnChange(func(old, now *v1alpha1.ArkAgent) {
		var err error
		if old != nil && (now == nil || now.UID != old.UID) {
			err = errors.Join(o.queue.HintRemoved(old.Namespace, old.Name, "the ArkAgent was removed"), cut(old))
		}
		if now != nil && (old == nil || now.UID != old.UID) {
			err = errors.Join(err, let(now))
		}
		if err != nil {
			o.log.Error("an agent's account was not changed", "old", old != nil, "new", now != nil, "error", err)
		}
	})
}

// renewKeys keeps the keys of the embedded queue up to date until ctx ends. Every agent's credentials are looked at again
// when they have changed.
func (o *Operator) renewKeys(ctx context.Context) {
	if o.queue.keys == nil {
		return
	}
	o.queue.keys.run(ctx, o.queue.server.Accounts(), func() {
		for _, a := range o.cache.Agents.All() {
			o.agents.Add(controller.KeyOf(a))
		}
	})
}
