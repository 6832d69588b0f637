package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/yaml"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/kube"
	"arkonis.dev/ark/pkg/remote"
)

// remoteFlags are kubectl's flags, for the commands that work with a cluster.
type remoteFlags struct {
	namespace, context, kubeconfig string
	all                            bool
	operatorNamespace              string
}

func (f *remoteFlags) add(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVarP(&f.namespace, "namespace", "n", "", "namespace (default that of the context)")
	fl.StringVar(&f.context, "context", "", "context of the kubeconfig (default its current one)")
	fl.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig file (default $KUBECONFIG, then ~/.kube/config)")
	_ = c.RegisterFlagCompletionFunc("namespace", f.complete((*remote.Cluster).Namespaces))
	_ = c.RegisterFlagCompletionFunc("context", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return kube.Flags{Kubeconfig: f.kubeconfig}.Contexts(), cobra.ShellCompDirectiveNoFileComp
	})
}

// addAll adds -A, for commands that list.
func (f *remoteFlags) addAll(c *cobra.Command) {
	c.Flags().BoolVarP(&f.all, "all-namespaces", "A", false, "all namespaces")
}

// addOperator adds the flag that says where ark itself is.
func (f *remoteFlags) addOperator(c *cobra.Command) {
	c.Flags().StringVar(&f.operatorNamespace, "operator-namespace", "ark-system", "ark's own namespace")
}

// cluster connects to the cluster that the flags name.
func (f *remoteFlags) cluster() (*remote.Cluster, error) {
	if f.all && f.namespace != "" {
		return nil, errors.New("--all-namespaces and --namespace exclude each other: give one of them")
	}
	cluster, err := remote.NewCluster(kube.Flags{
		Kubeconfig: f.kubeconfig, Context: f.context, Namespace: f.namespace, UserAgent: "ark/" + version,
	})
	if err != nil {
		return nil, err
	}
	if f.all {
		cluster.Namespace = ""
	}
	return cluster, nil
}

// find returns a run by its name, or the newest one for @latest, and the cluster that it is in.
func (f *remoteFlags) find(ctx context.Context, name string) (*remote.Cluster, *v1alpha1.ArkRun, error) {
	cluster, err := f.cluster()
	if err != nil {
		return nil, nil, err
	}
	run, err := cluster.Run(ctx, name)
	return cluster, run, err
}

// completionTimeout bounds how long a shell waits for names.
const completionTimeout = 3 * time.Second

// complete completes names from the cluster. Without a cluster it completes nothing.
func (f *remoteFlags) complete(lists ...func(*remote.Cluster, context.Context) ([]string, error)) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		cluster, err := f.cluster()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(c.Context(), completionTimeout)
		defer cancel()
		var names []string
		for _, list := range lists {
			found, err := list(cluster, ctx)
			if err == nil {
				names = append(names, found...)
			}
		}
		slices.Sort(names)
		return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
	}
}

// first completes the first argument only.
func first(f cobra.CompletionFunc) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return f(c, args, typed)
	}
}

// completeRun completes the name of a run, or @latest.
func (f *remoteFlags) completeRun() cobra.CompletionFunc {
	return first(f.complete((*remote.Cluster).RunNames, func(*remote.Cluster, context.Context) ([]string, error) {
		return []string{remote.Latest}, nil
	}))
}

// oneRun says what is missing when a command is not given the name of a run.
func oneRun(c *cobra.Command, args []string) error {
	switch len(args) {
	case 0:
		return fmt.Errorf("which run? Give its name, or %s for the newest one (see '%s --help')", remote.Latest, c.CommandPath())
	case 1:
		return nil
	default:
		return fmt.Errorf("%s takes one run, and got %q as well (see '%s --help')", c.CommandPath(), args[1], c.CommandPath())
	}
}

// Formats of --output for what is read from a cluster.
const (
	formatText = ""
	formatWide = "wide"
	formatName = "name"
	formatJSON = "json"
	formatYAML = "yaml"
)

// addOutput adds -o with the formats that a command knows.
func addOutput(c *cobra.Command, to *string, formats ...string) {
	formats = append(formats, formatJSON, formatYAML)
	c.Flags().StringVarP(to, "output", "o", "", strings.Join(formats, ", ")+" (default a text for people)")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	run := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if *to != formatText && !slices.Contains(formats, *to) {
			return fmt.Errorf("--output: %q is not a format; use one of %s", *to, strings.Join(formats, ", "))
		}
		return run(c, args)
	}
}

// encode writes a value as JSON or YAML.
func encode(w io.Writer, format string, v any) error {
	if format == formatJSON {
		return encodeJSON(w, v)
	}
	text, err := yaml.Marshal(v)
	if err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	_, err = w.Write(text)
	return err
}

// typed gives an object its kind, which typed clients leave out, and drops what only the API server reads.
func typed[T kube.Object](o T, kind string) T {
	o.GetObjectKind().SetGroupVersionKind(v1alpha1.Kind(kind))
	o.SetManagedFields(nil)
	return o
}

// list is a list of objects as kubectl writes it.
type list struct {
	APIVersion string           `json:"apiVersion"`
	Kind       string           `json:"kind"`
	Items      []runtime.Object `json:"items"`
}

func newList() *list { return &list{APIVersion: "v1", Kind: "List", Items: []runtime.Object{}} }

// table writes rows: aligned and with a head for people, with tabs between the fields and no head for pipes.
type table struct {
	w      io.Writer
	tabs   *tabwriter.Writer
	people bool
	headed bool
	head   []string
}

func newTable(s *streams, head ...string) *table {
	t := &table{w: s.out, people: s.outTerminal, head: head}
	t.tabs = tabwriter.NewWriter(s.out, 0, 4, 3, ' ', 0)
	return t
}

func (t *table) row(fields ...string) {
	for i := range fields {
		fields[i] = strings.Join(strings.Fields(harmless(fields[i])), " ")
		if fields[i] == "" && t.people {
			fields[i] = "-"
		}
	}
	if !t.people {
		fmt.Fprintln(t.w, strings.Join(fields, "\t"))
		return
	}
	if !t.headed {
		t.headed = true
		fmt.Fprintln(t.tabs, strings.Join(t.head, "\t"))
	}
	fmt.Fprintln(t.tabs, strings.Join(fields, "\t"))
}

// flush writes what was held back to align it.
func (t *table) flush() { _ = t.tabs.Flush() } // streams.out remembers a failure

// age is how long ago something was, as kubectl says it.
func age(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return duration.HumanDuration(now.Sub(t))
}
