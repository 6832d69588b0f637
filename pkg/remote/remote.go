// Package remote is what people do with ark in a cluster from their own machine: find runs, follow them, trigger teams,
// read what the queue's stores hold, and gather what explains a run. Package local is its counterpart for a laptop.
//
// It needs nothing but a kubeconfig and rights on ark's kinds. What lives in the queue's stores it reads through the
// aggregated API data.arkonis.dev; everything else stands in objects. Errors name the object, the cause and what to do.
package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/kube"
)

// Latest stands for the newest run.
const Latest = "@latest"

// Cluster is a cluster as one user sees it. It is safe for concurrent use.
type Cluster struct {
	Clients   *kube.Clients
	Namespace string // "" means all of them, for lists
}

// NewCluster makes the clients of a cluster; it does not ask it anything yet.
func NewCluster(f kube.Flags) (*Cluster, error) {
	config, namespace, err := f.Load()
	if err != nil {
		return nil, err
	}
	clients, err := kube.NewClients(config)
	if err != nil {
		return nil, err
	}
	return &Cluster{Clients: clients, Namespace: namespace}, nil
}

// Kinds of objects as messages name them.
const (
	kindRun   = "ArkRun"
	kindTeam  = "ArkTeam"
	kindAgent = "ArkAgent"
	kindEvent = "ArkEvent"
)

// ErrNotInstalled means that the API server knows nothing of ark's kinds.
var ErrNotInstalled = errors.New("ark is not installed in this cluster: run 'ark install'")

// explain turns an answer of the API server into a sentence that says what to do. verb and what say what was asked
// for, such as list and "ArkRuns in namespace default".
func (c *Cluster) explain(err error, verb, what string) error {
	_, unreachable := errors.AsType[*net.OpError](err)
	_, failed := errors.AsType[*url.Error](err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case notServed(err):
		return ErrNotInstalled
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%s %s: you have no right to: %s; ask an administrator for %s", verb, what, cause(err), rolesFor(verb))
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s %s: the cluster does not accept your credentials: log in again, or name another --context", verb, what)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return fmt.Errorf("%s %s: %s", verb, what, cause(err))
	case apierrors.IsServiceUnavailable(err):
		return fmt.Errorf("%s %s: the cluster cannot answer now: %s", verb, what, cause(err))
	case unreachable || failed && !apierrors.IsNotFound(err):
		return fmt.Errorf("%s %s: the cluster %s cannot be reached: %w: is it up, and is this the right --context?", verb, what, c.Clients.Config.Host, root(err))
	default:
		return fmt.Errorf("%s %s: %w", verb, what, err)
	}
}

// rolesFor are the roles of which each allows what a verb stands for.
func rolesFor(verb string) string {
	switch verb {
	case "get", "list", "watch":
		return "one of the roles ark-view, ark-edit and ark-admin"
	default:
		return "one of the roles ark-edit and ark-admin"
	}
}

// notServed says that the API server has no such kind, in contrast to no such object.
func notServed(err error) bool {
	return apierrors.IsNotFound(err) && apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
}

// cause is what the API server says, without the words that every such message begins with.
func cause(err error) string {
	status, ok := errors.AsType[*apierrors.StatusError](err)
	if !ok {
		return err.Error()
	}
	text := status.ErrStatus.Message
	if _, after, found := strings.Cut(text, " is forbidden: "); found {
		return after
	}
	return text
}

// root is the innermost error.
func root(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}

// In is how messages name the namespace.
func (c *Cluster) In() string {
	if c.Namespace == "" {
		return "in all namespaces"
	}
	return "in namespace " + c.Namespace
}

// missing is the error for a name that nothing has somewhere, with those that look like it.
func missing(kind, where, name string, there []string) error {
	text := fmt.Sprintf("there is no %s %q in %s", kind, name, where)
	near := closest(name, there)
	switch {
	case len(near) > 0:
		return errors.New(text + ": did you mean " + strings.Join(near, " or ") + "?")
	case len(there) == 0:
		if !strings.HasPrefix(where, "namespace ") {
			return fmt.Errorf("%s: there is none at all", text)
		}
		return fmt.Errorf("%s: there is none at all; name another namespace with -n", text)
	default:
		const most = 5
		slices.Sort(there)
		more := ""
		if len(there) > most {
			more = fmt.Sprintf(" and %d more", len(there)-most)
			there = there[:most]
		}
		return fmt.Errorf("%s: there are %s%s", text, strings.Join(there, ", "), more)
	}
}

// closest are the names that look like one, at most three, the likeliest first.
func closest(name string, names []string) []string {
	type candidate struct {
		name     string
		distance int
	}
	var found []candidate
	for _, n := range names {
		d := distance(name, n)
		if strings.HasPrefix(n, name) {
			d = min(d, 1)
		}
		if d <= max(2, len(name)/4) {
			found = append(found, candidate{n, d})
		}
	}
	slices.SortFunc(found, func(a, b candidate) int {
		if a.distance != b.distance {
			return a.distance - b.distance
		}
		return strings.Compare(a.name, b.name)
	})
	var out []string
	for _, c := range found[:min(3, len(found))] {
		out = append(out, c.name)
	}
	return out
}

// distance is how many letters have to be changed, added or left out to make one word of another.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// Team returns a team.
func (c *Cluster) Team(ctx context.Context, name string) (*v1alpha1.ArkTeam, error) {
	team, err := c.Clients.Teams(c.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && !notServed(err) {
		return nil, c.noSuch(ctx, kindTeam, name)
	}
	if err != nil {
		return nil, c.explain(err, "get", kindTeam+" "+name+" "+c.In())
	}
	return team, nil
}

// Agent returns an agent.
func (c *Cluster) Agent(ctx context.Context, name string) (*v1alpha1.ArkAgent, error) {
	agent, err := c.Clients.Agents(c.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && !notServed(err) {
		return nil, c.noSuch(ctx, kindAgent, name)
	}
	if err != nil {
		return nil, c.explain(err, "get", kindAgent+" "+name+" "+c.In())
	}
	return agent, nil
}

// noSuch is the error for a name that no object of a kind has.
func (c *Cluster) noSuch(ctx context.Context, kind, name string) error {
	names, err := c.names(ctx, kind)
	if err != nil {
		names = nil // the error would hide what is wrong: the name
	}
	return missing(kind, "namespace "+c.Namespace, name, names)
}

// names lists the names of all objects of a kind, for suggestions and the completion of the shell.
func (c *Cluster) names(ctx context.Context, kind string) ([]string, error) {
	var names []string
	var err error
	switch kind {
	case kindTeam:
		err = each(ctx, c.Clients.Teams(c.Namespace), metav1.ListOptions{}, func(o *v1alpha1.ArkTeam) { names = append(names, o.Name) })
	case kindAgent:
		err = each(ctx, c.Clients.Agents(c.Namespace), metav1.ListOptions{}, func(o *v1alpha1.ArkAgent) { names = append(names, o.Name) })
	default:
		err = each(ctx, c.Clients.Runs(c.Namespace), metav1.ListOptions{}, func(o *v1alpha1.ArkRun) { names = append(names, o.Name) })
	}
	if err != nil {
		return nil, c.explain(err, "list", kind+"s "+c.In())
	}
	return names, nil
}

// TeamNames are the names of all teams of the namespace.
func (c *Cluster) TeamNames(ctx context.Context) ([]string, error) { return c.names(ctx, kindTeam) }

// AgentNames are the names of all agents of the namespace.
func (c *Cluster) AgentNames(ctx context.Context) ([]string, error) { return c.names(ctx, kindAgent) }

// RunNames are the names of all runs of the namespace.
func (c *Cluster) RunNames(ctx context.Context) ([]string, error) { return c.names(ctx, kindRun) }

// Namespaces are the names of all namespaces.
func (c *Cluster) Namespaces(ctx context.Context) ([]string, error) {
	list, err := c.Clients.Core.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, c.explain(err, "list", "namespaces")
	}
	names := make([]string, 0, len(list.Items))
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names, nil
}
