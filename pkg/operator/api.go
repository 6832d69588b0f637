package operator

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"arkonis.dev/ark/pkg/apis/data"
	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/certificate"
	"arkonis.dev/ark/pkg/dataapi"
	"arkonis.dev/ark/pkg/kube"
)

const (
	// apiService is the Service through which the API server reaches the operator.
	apiService = "ark-api"
	// apiObject is the APIService that tells the API server of it.
	apiObject     = data.Version + "." + data.Group
	apiObjectPath = "/apis/apiregistration.k8s.io/v1/apiservices/" + apiObject
	// apiRetry is the pause after the certificates or the APIService could not be brought up to date.
	apiRetry = 10 * time.Second
)

// api is the aggregated API of the operator.
type api struct {
	o      *Operator
	server *dataapi.Server
	listen net.Listener
	shown  atomic.Pointer[tls.Certificate]
}

// openAPI listens, so that a port that is taken is an error of the start.
func (o *Operator) openAPI(ctx context.Context) (*api, error) {
	a := &api{o: o}
	var err error
	a.server, err = dataapi.New(dataapi.Config{
		Core: o.cfg.Clients.Core, Runs: runReader{o.cfg.Clients}, Queue: o.queue.Queue, Logger: o.log,
		Certificate: func() (*tls.Certificate, error) {
			if c := a.shown.Load(); c != nil {
				return c, nil
			}
			return nil, errors.New("there is no certificate yet")
		},
	})
	if err != nil {
		return nil, err
	}
	if a.listen, err = (&net.ListenConfig{}).Listen(ctx, "tcp", o.cfg.APIListen); err != nil {
		return nil, fmt.Errorf("operator: listen for the aggregated API on %s: %w", o.cfg.APIListen, err)
	}
	return a, nil
}

// run serves, and keeps the certificate and the APIService up to date, until ctx ends.
func (a *api) run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var group sync.WaitGroup
	group.Go(func() { a.renew(ctx) })
	group.Go(func() { a.leave(ctx) })
	err := a.server.Run(ctx, a.listen)
	stop()
	group.Wait()
	return err
}

// leave removes the APIService when the operator's own namespace is being deleted: nobody would serve it any more, and
// the API server deletes no namespace while it cannot list all kinds.
func (a *api) leave(ctx context.Context) {
	namespaces := a.o.cfg.Clients.Core.CoreV1().Namespaces()
	for ctx.Err() == nil {
		own, err := namespaces.Get(ctx, a.o.cfg.Namespace, metav1.GetOptions{})
		if err == nil {
			_, err = kube.Follow(ctx, namespaces, own, func(n *corev1.Namespace) bool { return n.DeletionTimestamp != nil })
		}
		if err == nil {
			err = a.o.cfg.Clients.Core.Discovery().RESTClient().Delete().AbsPath(apiObjectPath).Do(ctx).Error()
		}
		if err == nil || apierrors.IsNotFound(err) {
			return
		}
		if ctx.Err() == nil {
			a.o.log.WarnContext(ctx, "the operator's namespace is not seen, it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(apiRetry):
		}
	}
}

func (a *api) renew(ctx context.Context) {
	for {
		again, err := a.renewOnce(ctx)
		wait := max(time.Until(again), apiRetry)
		if err != nil {
			wait = apiRetry
			if ctx.Err() == nil {
				a.o.log.ErrorContext(ctx, "the aggregated API has no certificate that the API server knows, it is tried again", "error", err)
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// renewOnce brings the certificates up to date: in the Secret, which all operators share, then in the APIService, and
// only then for connections, so that the API server always knows what it is shown.
func (a *api) renewOnce(ctx context.Context) (again time.Time, err error) {
	var chain *certificate.Chain
	for range 5 {
		chain, again, err = a.storedChain(ctx, time.Now())
		if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			break
		}
	}
	if err != nil {
		return again, fmt.Errorf("certificates (Secret %s): %w", data.KeysSecret, err)
	}
	if err := a.publish(ctx, chain.Bundle()); err != nil {
		return again, fmt.Errorf("APIService %s: %w", apiObject, err)
	}
	pair, err := tls.X509KeyPair(chain.Server.Certificate, chain.Server.Key)
	if err != nil {
		return again, err
	}
	a.shown.Store(&pair)
	return again, nil
}

// storedChain is what the Secret holds, renewed and stored again if that is due.
func (a *api) storedChain(ctx context.Context, now time.Time) (*certificate.Chain, time.Time, error) {
	const key = "certificates"
	secrets := a.o.cfg.Clients.Core.CoreV1().Secrets(a.o.cfg.Namespace)
	secret, err := secrets.Get(ctx, data.KeysSecret, metav1.GetOptions{})
	exists := err == nil
	if !exists && !apierrors.IsNotFound(err) {
		return nil, now, err
	}
	var old *certificate.Chain
	if exists {
		if secret.Labels[v1alpha1.LabelManagedBy] != v1alpha1.ManagedBy {
			return nil, now, fmt.Errorf("%w: a Secret with this name exists that ark did not make; rename or remove it", kube.ErrConflict)
		}
		if old, err = certificate.Parse(secret.Data[key]); err != nil {
			return nil, now, err
		}
	}
	host := apiService + "." + a.o.cfg.Namespace + ".svc"
	chain, again, err := old.Next("ark aggregated API", []string{host}, now)
	if err != nil {
		return nil, now, err
	}
	body, err := chain.Bytes()
	if err != nil || exists && bytes.Equal(body, secret.Data[key]) {
		return chain, again, err
	}
	fresh := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: data.KeysSecret, Labels: map[string]string{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy}},
		Type:       corev1.SecretTypeOpaque, Data: map[string][]byte{key: body},
	}
	if exists {
		fresh.ResourceVersion = secret.ResourceVersion
		_, err = secrets.Update(ctx, fresh, metav1.UpdateOptions{FieldManager: kube.FieldManager})
	} else {
		_, err = secrets.Create(ctx, fresh, metav1.CreateOptions{FieldManager: kube.FieldManager})
	}
	return chain, again, err
}

// publish tells the API server which authority has signed the certificate, unless it knows.
func (a *api) publish(ctx context.Context, bundle []byte) error {
	client := a.o.cfg.Clients.Core.Discovery().RESTClient()
	body, err := client.Get().AbsPath(apiObjectPath).Do(ctx).Raw()
	if err != nil {
		return err
	}
	type spec struct {
		CABundle []byte `json:"caBundle"`
	}
	var now struct {
		Spec spec `json:"spec"`
	}
	if err := json.Unmarshal(body, &now); err != nil {
		return err
	}
	if bytes.Equal(now.Spec.CABundle, bundle) {
		return nil
	}
	patch, err := json.Marshal(map[string]spec{"spec": {CABundle: bundle}})
	if err != nil {
		return err
	}
	return client.Patch(types.MergePatchType).AbsPath(apiObjectPath).Param("fieldManager", kube.FieldManager).Body(patch).Do(ctx).Error()
}

// runReader reads runs from the API server: the operator's own cache leaves out what runs that have ended put out.
type runReader struct{ clients *kube.Clients }

func (r runReader) Get(ctx context.Context, namespace, name string) (*v1alpha1.ArkRun, error) {
	return r.clients.Runs(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (r runReader) Ended(ctx context.Context, run *v1alpha1.ArkRun) (*v1alpha1.ArkRun, error) {
	return kube.Follow(ctx, r.clients.Runs(run.Namespace), run, func(now *v1alpha1.ArkRun) bool { return now.Status.Phase.Terminal() })
}
