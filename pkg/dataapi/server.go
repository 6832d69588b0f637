// Package dataapi serves the aggregated API data.arkonis.dev: what lives in the queue's stores, to whoever the API
// server says may read it. So kubeconfig rights on ark's kinds are all that a user needs.
//
// Only the API server's aggregator is let in: it shows the front proxy's certificate and says who asks. Each request
// is then checked by a SubjectAccessReview. Bodies are streamed; how many requests are answered at once, and how long
// a client may take nothing, is bounded.
package dataapi

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"

	"arkonis.dev/ark/pkg/apis/data"
	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/queue"
)

// Bounds of what is served.
const (
	maxRequests    = 512              // at once, followers of logs among them
	maxFolds       = 4                // runs that are read whole at once
	writeTimeout   = 30 * time.Second // that a client may take nothing
	headerTimeout  = 5 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 64 << 10
	closeTimeout   = 3 * time.Second
)

// Runs reads and watches ArkRuns.
type Runs interface {
	Get(ctx context.Context, namespace, name string) (*v1alpha1.ArkRun, error)
	// Ended returns when a run has ended, with its last version, or when the context has.
	Ended(ctx context.Context, run *v1alpha1.ArkRun) (*v1alpha1.ArkRun, error)
}

// Config says what a Server serves. All fields are required.
type Config struct {
	Core        kubernetes.Interface
	Runs        Runs
	Queue       *queue.Queue
	Certificate func() (*tls.Certificate, error) // asked for each connection
	Logger      *slog.Logger
}

func (c *Config) validate() error {
	if c.Core == nil || c.Runs == nil || c.Queue == nil || c.Certificate == nil || c.Logger == nil {
		return errors.New("dataapi: Core, Runs, Queue, Certificate and Logger are all needed")
	}
	return nil
}

// Server serves the API. Make it with New and run it once.
type Server struct {
	cfg      Config
	log      *slog.Logger
	proxies  *proxies
	requests chan struct{} // one for each request that is answered
	folds    chan struct{} // one for each run that is being read whole

	followers chan struct{} // one for each log that is followed
}

// New makes a server that is not running.
func New(c Config) (*Server, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	return &Server{
		cfg: c, log: c.Logger, proxies: newProxies(c.Core, c.Logger),
		requests: make(chan struct{}, maxRequests), folds: make(chan struct{}, maxFolds),
		followers: make(chan struct{}, maxFollowers),
	}, nil
}

// Run serves on a listener, which it closes, until the context ends. Requests that are being answered then are cut off
// after a moment.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		s.proxies.watch(ctx)
	}()
	server := &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.cfg.Certificate() },
		},
	}
	done := make(chan error, 1)
	go func() { done <- server.ServeTLS(l, "", "") }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if server.Shutdown(closing) != nil {
			_ = server.Close()
		}
		err = <-done
	}
	stop()
	<-watched
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", data.Group, err)
	}
	return nil
}

// Handler answers requests. Those that came over TLS and with the front proxy's certificate are those of whom they name.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.Handle("GET /apis", s.known(discoverGroups))
	mux.Handle("GET /apis/"+data.Group, s.known(discoverGroup))
	mux.Handle("GET "+data.Path, s.known(discoverResources))
	run := data.Path + "/namespaces/{namespace}/" + data.Resource + "/{name}/"
	mux.Handle("GET "+run+data.Output, s.allowed(data.Output, s.output))
	mux.Handle("GET "+run+data.Steps, s.allowed(data.Steps, s.steps))
	mux.Handle("GET "+run+data.Log, s.allowed(data.Log, s.logs))
	mux.Handle("/", s.known(func(w http.ResponseWriter, r *http.Request) {
		fail(w, apierrors.NewGenericServerResponse(http.StatusNotFound, r.Method, schema.GroupResource{Group: data.Group}, "", "", 0, true))
	}))
	return s.bounded(mux)
}

// bounded refuses what is too much at once.
func (s *Server) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case s.requests <- struct{}{}:
			defer func() { <-s.requests }()
			next.ServeHTTP(w, r)
		default:
			fail(w, apierrors.NewTooManyRequests("too many requests are being answered: ask again in a moment", 1))
		}
	})
}

// known lets in whoever the API server knows.
func (s *Server) known(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := s.proxies.caller(r); err != nil {
			fail(w, err)
			return
		}
		next(w, r)
	})
}

// allowed lets in whoever may get a part of the run that is asked for, and finds the run.
func (s *Server) allowed(part string, next func(http.ResponseWriter, *http.Request, *v1alpha1.ArkRun)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := s.proxies.caller(r)
		if err == nil {
			err = s.review(r.Context(), who, r.PathValue("namespace"), r.PathValue("name"), part)
		}
		if err != nil {
			fail(w, err)
			return
		}
		run, err := s.cfg.Runs.Get(r.Context(), r.PathValue("namespace"), r.PathValue("name"))
		if err != nil {
			fail(w, err)
			return
		}
		if uid := r.URL.Query().Get("uid"); uid != "" && uid != string(run.UID) {
			fail(w, apierrors.NewConflict(groupResource(), run.Name, errors.New("it is another run of the same name: its uid is "+string(run.UID))))
			return
		}
		next(w, r, run)
	})
}

func groupResource() schema.GroupResource {
	return schema.GroupResource{Group: data.Group, Resource: data.Resource}
}

// fail answers with an error as the API server writes them.
func fail(w http.ResponseWriter, err error) {
	known, ok := errors.AsType[*apierrors.StatusError](err)
	if !ok {
		known = apierrors.NewInternalError(err)
		if errors.Is(err, queue.ErrUnavailable) {
			known = apierrors.NewServiceUnavailable(err.Error())
		}
	}
	status := known.Status()
	status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	if d := status.Details; d != nil && d.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(d.RetryAfterSeconds))
	}
	write(w, int(status.Code), status)
}

// write answers with a JSON object.
func write(w http.ResponseWriter, code int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		code, body = http.StatusInternalServerError, []byte("{}")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(body) // a client that has gone reads no error
}
