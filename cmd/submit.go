package cmd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/remote"
	"arkonis.dev/ark/pkg/trigger"
)

// maxPrompt bounds a prompt that is read from standard input, in bytes.
const maxPrompt = 1 << 20

type submitFlags struct {
	triggerFlags
	team, role string
}

func newSubmit(s *streams) *cobra.Command {
	var f submitFlags
	c := &cobra.Command{
		Use:   "submit [TEAM|AGENT] TEXT",
		Short: "Send one prompt to a team or an agent in a cluster and print the answer",
		Long: `Send one prompt to a team or an agent and print the answer. For a team the text is its only required input that is a
string, else the input 'prompt'. TEXT - reads standard input. It is a run like any other.`,
		Example: `  ark submit writer 'Write a haiku about tides.'
  ark submit --team research --role analyst 'Which tide is highest?'
  git diff | ark submit reviewer -`,
		Args: func(c *cobra.Command, args []string) error {
			named := f.team != "" || f.agent != ""
			switch {
			case f.team != "" && f.agent != "":
				return errors.New("--team and --agent exclude each other: name one of them")
			case f.role != "" && f.agent != "":
				return errors.New("--role is one of a team: it does not go with --agent")
			case len(args) == 0:
				return fmt.Errorf("what shall be sent? Give a text, or - for standard input (see '%s --help')", c.CommandPath())
			case named && len(args) > 1 || len(args) > 2:
				return fmt.Errorf("%s takes one text: put it into quotes (see '%s --help')", c.CommandPath(), c.CommandPath())
			case !named && len(args) == 1:
				return fmt.Errorf("to whom? Give the name of a team or an agent before the text (see '%s --help')", c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			name := ""
			if len(args) == 2 {
				name = args[0]
			}
			return f.run(ctx, s, name, args[len(args)-1])
		},
	}
	f.add(c)
	fl := c.Flags()
	fl.StringVar(&f.team, "team", "", "the team that the text is for")
	fl.StringVar(&f.agent, "agent", "", "the agent that the text is for")
	fl.StringVar(&f.role, "role", "", "the role of the team whose agent the text is for")
	fl.BoolVarP(&f.watch, "watch", "w", false, "show the steps as they go on")
	fl.DurationVar(&f.timeout, "timeout", 0, "how long to wait for the answer (default for ever); the run goes on")
	fl.StringVar(&f.id, "id", "", "names this request: the same one again makes no second run")
	addOutput(c, &f.output)
	_ = c.RegisterFlagCompletionFunc("team", f.complete((*remote.Cluster).TeamNames))
	_ = c.RegisterFlagCompletionFunc("agent", f.complete((*remote.Cluster).AgentNames))
	c.ValidArgsFunction = first(f.complete((*remote.Cluster).TeamNames, (*remote.Cluster).AgentNames))
	return c
}

func (f *submitFlags) run(ctx context.Context, s *streams, name, text string) error {
	if text == "-" {
		in, err := s.in.take("TEXT -")
		if err != nil {
			return err
		}
		body, err := readLimited(in, "TEXT -", maxPrompt)
		if err != nil {
			return err
		}
		text = string(body)
	}
	if strings.TrimSpace(text) == "" {
		return errors.New("the text is empty: there is nothing to send")
	}
	cluster, err := f.cluster()
	if err != nil {
		return err
	}
	r, err := f.request(ctx, cluster, name, text)
	if err != nil {
		return err
	}
	f.wait = !f.watch
	return f.fire(ctx, s, cluster, r)
}

// request says who gets the text, and as what.
func (f *submitFlags) request(ctx context.Context, cluster *remote.Cluster, name, text string) (trigger.Request, error) {
	r := trigger.Request{ID: f.id}
	var team *v1alpha1.ArkTeam
	var agent *v1alpha1.ArkAgent
	var err error
	switch {
	case f.team != "":
		team, err = cluster.Team(ctx, f.team)
	case f.agent != "":
		agent, err = cluster.Agent(ctx, f.agent)
	default:
		team, agent, err = cluster.Target(ctx, name)
	}
	if err != nil {
		return r, err
	}
	switch {
	case agent != nil && f.role != "":
		return r, fmt.Errorf("--role %s: %s is an agent, which has no roles", f.role, agent.Name)
	case agent != nil:
		r.Agent, r.Prompt = agent.Name, text
		return r, nil
	case f.role != "":
		if r.Agent, err = agentOfRole(team, f.role); err != nil {
			return r, err
		}
		r.Prompt = text
		return r, nil
	}
	r.Team, r.Input = team.Name, map[string]any{textInput(team): text}
	return r, nil
}

// agentOfRole is the agent that plays a role of a team.
func agentOfRole(team *v1alpha1.ArkTeam, role string) (string, error) {
	var names []string
	for i := range team.Spec.Roles {
		r := &team.Spec.Roles[i]
		names = append(names, r.Name)
		switch {
		case r.Name != role:
		case r.ArkTeam != "":
			return "", fmt.Errorf("role %s of team %s is the team %s: submit to that one", role, team.Name, r.ArkTeam)
		case r.ArkAgent != "":
			return r.ArkAgent, nil
		default:
			return v1alpha1.RoleAgentName(team.Name, role), nil
		}
	}
	return "", fmt.Errorf("team %s has no role %q: it has %s", team.Name, role, strings.Join(names, ", "))
}

// textInput is the input of a team that a text fills: its only required string, else the prompt.
func textInput(team *v1alpha1.ArkTeam) string {
	var required []string
	for i := range team.Spec.Inputs {
		in := &team.Spec.Inputs[i]
		if in.Required && in.Default == nil && (in.Type == "" || in.Type == v1alpha1.InputString) {
			required = append(required, in.Name)
		}
	}
	required = slices.Compact(required)
	if len(required) == 1 {
		return required[0]
	}
	return "prompt"
}
