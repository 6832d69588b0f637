package dataapi

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"arkonis.dev/ark/pkg/apis/data"
)

// The ConfigMap in which the API server says how its front proxy is recognized.
const (
	proxyNamespace = "kube-system"
	proxyConfig    = "extension-apiserver-authentication"
)

// anonymous is the group of those whom the API server does not know.
const anonymous = "system:unauthenticated"

// caller is who asks, as the API server says.
type caller struct {
	name, uid string
	groups    []string
	extra     map[string]authorizationv1.ExtraValue
}

// proxies recognizes the API server's front proxy. It is safe for concurrent use.
type proxies struct {
	core kubernetes.Interface
	log  *slog.Logger
	// trusted is nil until the API server has said how the front proxy is recognized: nobody is let in before.
	trusted atomic.Pointer[frontProxy]
}

// frontProxy is how the front proxy is recognized, and how it names the caller.
type frontProxy struct {
	roots                          *x509.CertPool
	names                          []string // common names of its certificate; none: any that roots have signed
	users, uids, groups, extraHead []string
}

func newProxies(core kubernetes.Interface, log *slog.Logger) *proxies {
	return &proxies{core: core, log: log}
}

// watch keeps up with what the API server says of its front proxy, until the context ends. A proxy that is not trusted
// any more is refused from its next request on, also over a connection that it has made before.
func (p *proxies) watch(ctx context.Context) {
	client := p.core.CoreV1().ConfigMaps(proxyNamespace)
	only := fields.OneTermEqualSelector("metadata.name", proxyConfig).String()
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				o.FieldSelector = only
				return client.List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				o.FieldSelector = only
				return client.Watch(ctx, o)
			},
		},
		ObjectType: &corev1.ConfigMap{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { p.use(ctx, o) },
			UpdateFunc: func(_, o any) { p.use(ctx, o) },
			DeleteFunc: func(any) { p.trusted.Store(nil) },
		},
	})
	informer.RunWithContext(ctx)
}

func (p *proxies) use(ctx context.Context, o any) {
	m, ok := o.(*corev1.ConfigMap)
	if !ok {
		return
	}
	f, err := readFrontProxy(m.Data)
	if err != nil {
		p.log.ErrorContext(ctx, "the API server's front proxy cannot be recognized, nobody is let in",
			"configmap", proxyNamespace+"/"+proxyConfig, "error", err)
	}
	p.trusted.Store(f)
}

func readFrontProxy(from map[string]string) (*frontProxy, error) {
	f := &frontProxy{roots: x509.NewCertPool()}
	if !f.roots.AppendCertsFromPEM([]byte(from["requestheader-client-ca-file"])) {
		return nil, errors.New("requestheader-client-ca-file holds no certificate")
	}
	for key, to := range map[string]*[]string{
		"requestheader-allowed-names": &f.names, "requestheader-username-headers": &f.users, "requestheader-uid-headers": &f.uids,
		"requestheader-group-headers": &f.groups, "requestheader-extra-headers-prefix": &f.extraHead,
	} {
		if text := from[key]; text != "" {
			if err := json.Unmarshal([]byte(text), to); err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
		}
	}
	if len(f.users) == 0 {
		return nil, errors.New("requestheader-username-headers names no header")
	}
	return f, nil
}

// caller is who asks. Without the front proxy's certificate nobody is believed.
func (p *proxies) caller(r *http.Request) (*caller, error) {
	f := p.trusted.Load()
	if f == nil {
		return nil, apierrors.NewServiceUnavailable("the API server has not said yet how its front proxy is recognized: ask again in a moment")
	}
	if err := f.verify(r); err != nil {
		return nil, apierrors.NewUnauthorized("ask through the API server: " + err.Error())
	}
	c := &caller{name: header(r, f.users), uid: header(r, f.uids), extra: map[string]authorizationv1.ExtraValue{}}
	for _, h := range f.groups {
		c.groups = append(c.groups, r.Header.Values(h)...)
	}
	if c.name == "" || slices.Contains(c.groups, anonymous) {
		return nil, apierrors.NewUnauthorized("nobody may read this without saying who they are")
	}
	for name, values := range r.Header {
		for _, prefix := range f.extraHead {
			if rest, ok := cutPrefixFold(name, prefix); ok {
				key, err := url.PathUnescape(strings.ToLower(rest))
				if err != nil {
					key = strings.ToLower(rest)
				}
				c.extra[key] = append(c.extra[key], values...)
			}
		}
	}
	return c, nil
}

func (f *frontProxy) verify(r *http.Request) error {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return errors.New("the connection shows no certificate")
	}
	shown := r.TLS.PeerCertificates
	between := x509.NewCertPool()
	for _, c := range shown[1:] {
		between.AddCert(c)
	}
	_, err := shown[0].Verify(x509.VerifyOptions{
		Roots: f.roots, Intermediates: between, CurrentTime: time.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return errors.New("the certificate is not the front proxy's")
	}
	if len(f.names) > 0 && !slices.Contains(f.names, shown[0].Subject.CommonName) {
		return errors.New("the certificate has another name than the front proxy's")
	}
	return nil
}

// header is the first of some headers that is set.
func header(r *http.Request, names []string) string {
	for _, n := range names {
		if v := r.Header.Get(n); v != "" {
			return v
		}
	}
	return ""
}

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return "", false
	}
	return s[len(prefix):], true
}

// review asks the API server whether somebody may get a part of a run.
func (s *Server) review(ctx context.Context, who *caller, namespace, name, part string) error {
	answer, err := s.cfg.Core.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: who.name, UID: who.uid, Groups: who.groups, Extra: who.extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: namespace, Verb: "get", Group: data.Group, Version: data.Version, Resource: data.Resource, Subresource: part, Name: name,
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("ask who may read the %s of a run: %w", part, err)
	}
	if answer.Status.Allowed && !answer.Status.Denied {
		return nil
	}
	resource := groupResource()
	resource.Resource += "/" + part
	return apierrors.NewForbidden(resource, name, fmt.Errorf("user %q cannot get resource %q in API group %q in the namespace %q",
		who.name, resource.Resource, data.Group, namespace))
}
