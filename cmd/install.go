package cmd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"arkonis.dev/ark/pkg/install"
	"arkonis.dev/ark/pkg/kube"
)

const installLong = `Install ark into a cluster, or bring an installed one up to this version and these flags.

It applies the definitions of ark's kinds, a namespace, and the operator with the rights that it needs, by server-side
apply, and prints a line for each object. What is not asked for any more goes: give the same flags again to keep what
they ask for. For everything that has no flag here - an external NATS, a proxy, resources - there is the Helm chart.`

const installExample = `  ark install --wait
  ark install --image registry.example/ark:v1 --watch-namespaces team-a,team-b
  ark install --dry-run=client > ark.yaml`

// Values of --dry-run.
const (
	dryRunNone   = "none"
	dryRunClient = "client"
	dryRunServer = "server"
)

// clusterFlags are kubectl's flags.
type clusterFlags struct{ namespace, context, kubeconfig string }

func (f *clusterFlags) add(c *cobra.Command, namespace, usage string) {
	fl := c.Flags()
	fl.StringVarP(&f.namespace, "namespace", "n", namespace, usage)
	fl.StringVar(&f.context, "context", "", "context of the kubeconfig (default its current one)")
	fl.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig file (default $KUBECONFIG, then ~/.kube/config)")
}

// cluster connects to the cluster that the flags name.
func (f *clusterFlags) cluster(s *streams) (*install.Cluster, error) {
	config, _, err := kube.Flags{Kubeconfig: f.kubeconfig, Context: f.context, UserAgent: "ark-install/" + version}.Load()
	if err != nil {
		return nil, err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	return &install.Cluster{Client: client, Out: s.out}, nil
}

type installFlags struct {
	clusterFlags
	settings install.Settings
	dryRun   string
	wait     bool
	timeout  time.Duration
}

func newInstall(s *streams) *cobra.Command {
	var f installFlags
	c := &cobra.Command{
		Use:     "install",
		Short:   "Install ark into a cluster",
		Long:    installLong,
		Example: installExample,
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			return f.run(ctx, s)
		},
	}
	f.add(c, install.DefaultNamespace, "ark's own namespace")
	fl := c.Flags()
	fl.StringVar(&f.settings.Image, "image", defaultImage(version), "image of the operator and of agents' pods (default that of the manifests)")
	fl.StringSliceVar(&f.settings.PullSecrets, "image-pull-secret", nil, "Secret in ark's namespace to pull the operator's image with; repeatable")
	fl.StringSliceVar(&f.settings.Watch, "watch-namespaces", nil, "namespaces to look after, separated by commas; ark gets rights in these only (default all)")
	fl.StringVar(&f.settings.StorageClass, "storage-class", "", "storage class of the queue's volume (default the cluster's own)")
	fl.StringVar(&f.settings.StorageSize, "storage-size", "", "size of the queue's volume (default that of the manifests)")
	fl.StringVar(&f.settings.LogLevel, "log-level", "", "the operator's: debug, info, warn or error (default info)")
	fl.StringVar(&f.dryRun, "dry-run", dryRunNone, "none, client (print the YAML) or server (ask the API server, store nothing)")
	fl.BoolVar(&f.wait, "wait", false, "wait until the operator is ready")
	fl.DurationVar(&f.timeout, "timeout", 5*time.Minute, "how long to wait")
	return c
}

// defaultImage is the image of the same build; "" for one that has no version, which leaves the manifests' own.
func defaultImage(version string) string {
	if version == "dev" {
		return ""
	}
	return "arkonis.dev/ark:" + version
}

func (f *installFlags) check() error {
	switch f.dryRun {
	case dryRunNone, dryRunClient, dryRunServer:
	default:
		return fmt.Errorf("--dry-run: %q is not known; use none, client or server", f.dryRun)
	}
	if f.wait && f.dryRun != dryRunNone {
		return fmt.Errorf("--wait: nothing becomes ready with --dry-run=%s; leave one of them out", f.dryRun)
	}
	switch f.settings.LogLevel {
	case "", "debug", "info", "warn", "error":
		return nil
	default:
		return fmt.Errorf("--log-level: %q is not a level; use debug, info, warn or error", f.settings.LogLevel)
	}
}

func (f *installFlags) run(ctx context.Context, s *streams) error {
	f.settings.Namespace = f.namespace
	if err := f.check(); err != nil {
		return err
	}
	if f.dryRun == dryRunClient {
		return printObjects(s, f.settings)
	}
	cluster, err := f.cluster(s)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	if err := cluster.Install(ctx, f.settings, f.dryRun == dryRunServer); err != nil {
		return waitingError(ctx, err, f.timeout)
	}
	if f.wait {
		return waitingError(ctx, cluster.Wait(ctx, f.namespace), f.timeout)
	}
	return nil
}

// waitingError gives an error the exit code that says that time ran out, or that somebody interrupted.
func waitingError(ctx context.Context, err error, timeout time.Duration) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return &exitError{code: ExitTimeout, err: fmt.Errorf("not done after %s: %w", timeout, err)}
	case errors.Is(ctx.Err(), context.Canceled):
		return &exitError{code: ExitInterrupted, err: err}
	default:
		return err
	}
}

// printObjects writes what an install would apply, in its order.
func printObjects(s *streams, settings install.Settings) error {
	objects, err := install.Objects(settings)
	if err != nil {
		return err
	}
	for i, o := range objects {
		text, err := yaml.Marshal(o.Object)
		if err != nil {
			return fmt.Errorf("%s: %w", install.Describe(o), err)
		}
		if i > 0 {
			fmt.Fprintln(s.out, "---")
		}
		fmt.Fprint(s.out, string(text))
	}
	return nil
}
