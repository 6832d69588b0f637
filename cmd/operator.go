package cmd

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"arkonis.dev/ark/pkg/controller/agents"
	"arkonis.dev/ark/pkg/kube"
	"arkonis.dev/ark/pkg/operator"
	"arkonis.dev/ark/pkg/telemetry"
)

const operatorLong = `Run ark in a cluster: the queue server, the work service that agents ask, and the controllers of ark's kinds.

Each flag can be given as an environment variable too: --nats-url as ARK_NATS_URL, and so on. A flag wins.`

const operatorExample = `  ark operator --store /var/lib/ark
  ark operator --nats-url nats://nats.example:4222 --nats-creds /etc/nats/ark.creds --leader-elect`

// operatorGarbage is how much garbage the operator gathers before it is collected, in percent of what is live: most of what
// it holds are objects that stay, one for each run there is.
const operatorGarbage = 50

// operatorFlags are the flags of ark operator as they were typed.
type operatorFlags struct {
	kubeconfig, context string
	namespace           string
	watch               []string

	podIndex            string
	store, storeSize    string
	natsListen          string
	natsAdvertise       string
	natsURL, natsCreds  string
	natsAgentCreds      string
	natsCA              string
	natsReplicas        int
	metricsListen       string
	apiListen           string
	agentImage          string
	agentEnv            []string
	agentEnvFrom        []string
	agentCA             string
	triggersKept        time.Duration
	leaderElect         bool
	workers             int
	logLevel, logFormat string
}

func newOperator(s *streams) *cobra.Command {
	var f operatorFlags
	c := &cobra.Command{
		Use:     "operator",
		Short:   "Run ark in a cluster (the entrypoint of the operator's pod)",
		Long:    operatorLong,
		Example: operatorExample,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := flagsFromEnv(c.Flags(), os.LookupEnv); err != nil {
				return err
			}
			if os.Getenv("GOGC") == "" {
				debug.SetGCPercent(operatorGarbage)
			}
			ctx, stop := interruptible(c.Context())
			defer stop()
			return f.run(ctx, s)
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig file, outside of a cluster")
	fl.StringVar(&f.context, "context", "", "context of the kubeconfig")
	fl.StringVar(&f.namespace, "namespace", "", "the operator's own namespace (default $POD_NAMESPACE, then ark-system)")
	fl.StringSliceVar(&f.watch, "watch-namespaces", nil, "namespaces to look after, separated by commas (default all)")
	fl.StringVar(&f.podIndex, "pod-index", "", "number of the operator's pod in its StatefulSet: with the embedded queue only 0 runs")
	fl.StringVar(&f.store, "store", "", "folder of the embedded queue's store")
	fl.StringVar(&f.storeSize, "store-size", "", "what the embedded queue may store, such as 8Gi")
	fl.StringVar(&f.natsListen, "nats-listen", ":4222", "address of the embedded queue's port")
	fl.StringVar(&f.natsAdvertise, "nats-advertise", "tls://ark-nats.ark-system.svc:4222", "where agents reach the embedded queue")
	fl.StringVar(&f.natsURL, "nats-url", "", "an external NATS with JetStream instead of the embedded one")
	fl.StringVar(&f.natsCreds, "nats-creds", "", "credentials file for the external NATS")
	fl.StringVar(&f.natsAgentCreds, "nats-agent-creds", "", "credentials file that agents get for the external NATS (default that of --nats-creds)")
	fl.StringVar(&f.natsCA, "nats-ca", "", "authority of the external NATS's certificate, a file")
	fl.IntVar(&f.natsReplicas, "nats-replicas", 1, "replicas of the streams in the external NATS")
	fl.StringVar(&f.metricsListen, "metrics-listen", ":8080", "address of /healthz, /readyz and /metrics; empty for none")
	fl.StringVar(&f.apiListen, "api-listen", "", "address of the aggregated API data.arkonis.dev, such as :8443; empty for none")
	fl.StringVar(&f.agentImage, "agent-image", "arkonis.dev/ark:"+version, "image of agents' pods: the operator's own")
	fl.StringArrayVar(&f.agentEnv, "agent-env", nil, "NAME=VALUE for every agent's environment; repeatable")
	fl.StringSliceVar(&f.agentEnvFrom, "agent-env-from", []string{"ark-api-keys"}, "Secret for every agent's environment, in the agent's namespace where it exists; repeatable")
	fl.StringVar(&f.agentCA, "agent-ca", "", "certificates of authorities that every agent trusts besides the well-known ones, a PEM file")
	fl.DurationVar(&f.triggersKept, "triggers-kept", time.Hour, "how long the ArkEvent of a manual trigger stays")
	fl.BoolVar(&f.leaderElect, "leader-elect", false, "let only one of several operators act (default with --nats-url)")
	fl.IntVar(&f.workers, "workers", 8, "objects of a kind that are reconciled at once")
	fl.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	fl.StringVar(&f.logFormat, "log-format", "json", "json or text")
	return c
}

// flagsFromEnv gives flags that were not typed the values of their variables.
func flagsFromEnv(fl *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var errs []error
	fl.VisitAll(func(f *pflag.Flag) {
		name := "ARK_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, ok := lookup(name)
		if !ok || f.Changed {
			return
		}
		if err := fl.Set(f.Name, value); err != nil {
			errs = append(errs, fmt.Errorf("environment variable %s: %q is not what --%s takes (%s)", name, value, f.Name, f.Usage))
		}
	})
	return errors.Join(errs...)
}

func (f *operatorFlags) run(ctx context.Context, s *streams) error {
	config, err := f.config()
	if err != nil {
		return err
	}
	level, err := telemetry.ParseLevel(f.logLevel)
	if err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	tel, err := startScraped(ctx, "ark operator")
	if err != nil {
		return err
	}
	defer stopTelemetry(context.WithoutCancel(ctx), tel)
	config.Telemetry = tel
	config.Logger = telemetry.NewLogger(s.err, telemetry.LogFormat(f.logFormat), level)
	o, err := operator.New(config)
	if err != nil {
		return err
	}
	return o.Run(ctx)
}

// config checks what the flags alone show.
func (f *operatorFlags) config() (operator.Config, error) {
	var c operator.Config
	if f.logFormat != string(telemetry.JSON) && f.logFormat != string(telemetry.Text) {
		return c, fmt.Errorf("--log-format: %q is not a format; use json or text", f.logFormat)
	}
	if f.store == "" && f.natsURL == "" {
		return c, errors.New("where is the queue? Give --store FOLDER for the embedded one, or --nats-url for an external NATS")
	}
	if f.store != "" && f.natsURL != "" {
		return c, errors.New("--store and --nats-url exclude each other: the store belongs to the embedded queue")
	}
	if f.store != "" && f.podIndex != "" && f.podIndex != "0" {
		return c, fmt.Errorf("this is pod %s of the operator: with the embedded queue, which has one volume, there can be only one; "+
			"scale the StatefulSet to 1 again, or use an external NATS with --nats-url", f.podIndex)
	}
	if f.workers < 1 {
		return c, fmt.Errorf("--workers: %d cannot do anything; give at least 1", f.workers)
	}
	if f.triggersKept <= 0 {
		return c, fmt.Errorf("--triggers-kept: %s is no time; give one such as 1h", f.triggersKept)
	}
	env, err := parseEnv(f.agentEnv)
	if err != nil {
		return c, err
	}
	authorities, err := readAuthorities("--agent-ca", f.agentCA)
	if err != nil {
		return c, err
	}
	size, err := parseSize(f.storeSize)
	if err != nil {
		return c, err
	}
	rest, err := kube.Flags{Kubeconfig: f.kubeconfig, Context: f.context, UserAgent: "ark-operator/" + version}.LoadInCluster()
	if err != nil {
		return c, err
	}
	clients, err := kube.NewClients(rest)
	if err != nil {
		return c, err
	}
	identity, err := os.Hostname()
	if err != nil {
		return c, fmt.Errorf("the name of this machine: %w", err)
	}
	return operator.Config{
		Clients: clients, Namespace: cmp.Or(f.namespace, os.Getenv("POD_NAMESPACE"), "ark-system"),
		Identity: cmp.Or(os.Getenv("POD_NAME"), identity), Watch: f.watch,
		Queue: operator.QueueConfig{
			Store: f.store, StoreBytes: size, Listen: f.natsListen, Advertise: f.natsAdvertise,
			URL: f.natsURL, Credentials: f.natsCreds, AgentCredentials: f.natsAgentCreds, CA: f.natsCA, Replicas: f.natsReplicas,
		},
		Agents:       agents.Pods{Image: f.agentImage, EnvFrom: f.agentEnvFrom, Env: env, CA: authorities},
		TriggersKept: f.triggersKept,
		Listen:       f.metricsListen, APIListen: f.apiListen, Workers: f.workers, LeaderElect: f.leaderElect || f.natsURL != "",
	}, nil
}

func parseEnv(pairs []string) ([]corev1.EnvVar, error) {
	var out []corev1.EnvVar
	for _, p := range pairs {
		name, value, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--agent-env: %q is not NAME=VALUE", p)
		}
		out = append(out, corev1.EnvVar{Name: name, Value: value})
	}
	return out, nil
}

// readAuthorities reads a file of certificates; none is nothing.
func readAuthorities(flag, file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s: %s holds no certificate: give a file of PEM certificates", flag, file)
	}
	return data, nil
}

// parseSize reads a quantity of bytes; none is 0.
func parseSize(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	q, err := resource.ParseQuantity(text)
	if err != nil || q.Value() <= 0 {
		return 0, fmt.Errorf("--store-size: %q is not a size such as 8Gi or 500Mi", text)
	}
	return q.Value(), nil
}
