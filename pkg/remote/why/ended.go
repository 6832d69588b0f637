package why

import (
	"cmp"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// succeeded says that nothing is wrong, and what took longest.
func succeeded(f *Facts) *Answer {
	s := &f.Run.Status
	if s.Phase != v1alpha1.RunSucceeded {
		return nil
	}
	a := &Answer{
		Cause: Succeeded, Message: "nothing is wrong: the run succeeded",
		Next: []string{command(f, "ark output %s", f.Run.Name)},
	}
	if s.Duration != "" {
		a.Message += " in " + s.Duration
	}
	if slow, took := slowest(s.Steps); slow != nil && len(s.Steps) > 1 {
		a.Evidence = append(a.Evidence, fmt.Sprintf("step %s took longest: %s", slow.Name, span(took)))
	}
	return a
}

func cancelled(f *Facts) *Answer {
	if f.Run.Status.Phase != v1alpha1.RunCancelled {
		return nil
	}
	return &Answer{
		Cause: Cancelled, Message: "the run was cancelled: " + cmp.Or(f.Run.Status.Message, "nobody said why"),
		Next: []string{command(f, "ark retry %s", f.Run.Name)},
	}
}

// remedy is what a reason means and what to do about it. In Next, {run}, {step}, {agent}, {team} and {key} are filled in.
type remedy struct {
	message string
	next    []string
}

// remedies by the reason of a step, or of a run that no step failed.
func remedies() map[string]remedy {
	retry := "ark retry {run}"
	see := "ark logs {run} --step {step}"
	return map[string]remedy{
		"ProviderAuth": {
			"the model server refuses the key of agent {agent}",
			[]string{`kubectl patch secret {secret} -p '{"stringData":{"{key}":"..."}}'`, "kubectl create secret generic {secret} --from-literal={key}=...", retry},
		},
		"ProviderRefused": {"the model server refuses the request of agent {agent}: is its model right?", []string{"kubectl edit arkagent {agent}", retry}},
		"ProviderFailed": {
			"the model server of agent {agent} could not be reached, or answered with errors until the time was up",
			[]string{"kubectl get secret {secret} -o jsonpath='{.data.OPENAI_BASE_URL}' | base64 -d", "kubectl describe arkagent {agent}", retry},
		},
		"RateLimited":      {"the model server limited the rate of agent {agent} until the time was up", []string{retry}},
		"ContextTooLong":   {"what agent {agent} was to read does not fit its model", []string{see, "kubectl edit arkagent {agent}"}},
		"ContentFiltered":  {"the model server withheld the answer to agent {agent}", []string{see}},
		"Truncated":        {"the answer of agent {agent} was cut at its limits.maxTokensPerCall", []string{"kubectl edit arkagent {agent}", retry}},
		"Timeout":          {"agent {agent} did not finish within its time", []string{see, "kubectl edit arkagent {agent}", retry}},
		"DeadlineExceeded": {"the time of the run was up", []string{"kubectl edit arkteam {team}", retry}},
		"TimedOut":         {"the time of the run was up: its timeoutSeconds has passed", []string{"kubectl edit arkteam {team}", retry}},
		"MaxTurns":         {"the model of agent {agent} never stopped calling tools: its limits.maxTurns was reached", []string{see, "kubectl edit arkagent {agent}"}},
		"ToolUnavailable":  {"a tool server that agent {agent} needs is down", []string{"kubectl describe arkagent {agent}", retry}},
		"OutputInvalid":    {"the answers of agent {agent} do not pass the checks of step {step}", []string{see, retry}},
		"PoisonTask":       {"every pod of agent {agent} that took the task of step {step} died", []string{"kubectl logs -l arkonis.dev/agent={agent} --previous", "kubectl describe pods -l arkonis.dev/agent={agent}"}},
		"BadTask":          {"agent {agent} cannot do what the task of step {step} asks for", []string{see}},
		"TemplateFailed":   {"a template of step {step} refers to something that does not exist", []string{"kubectl edit arkteam {team}", retry}},
		"TooManyItems":     {"the forEach of step {step} has more items than its maxItems", []string{"kubectl edit arkteam {team}", retry}},
		"OutputFailed":     {"the template of the team's output failed", []string{"kubectl edit arkteam {team}", retry}},
		"InvalidInput":     {"the input of the run is not what the team declares", []string{"kubectl explain arkteam.spec.inputs", "kubectl get arkteam {team} -o jsonpath='{.spec.inputs}'"}},
		"TeamNotFound":     {"the team does not exist", []string{"kubectl get arkteams"}},
		"RoutingFailed":    {"the router found nobody for the task", []string{see, "kubectl describe arkteam {team}"}},
		"EmptyAnswer":      {"the model of agent {agent} answers with nothing", []string{see, "kubectl edit arkagent {agent}", retry}},
		"AgentRemoved":     {"agent {agent} was removed while the run needed it", []string{"kubectl get arkagents", retry}},
		"RunDeleted":       {"the run that did step {step} was deleted before it had ended", []string{see, retry}},
		"AgentNotFound":    {"there is no agent {agent}", []string{"kubectl get arkagents", retry}},
		"Suspended":        {"team {team} is suspended: its runs do not start", []string{`kubectl patch arkteam {team} --type merge -p '{"spec":{"suspend":false}}'`, retry}},
		"InvalidSpec":      {"the team or the run is not valid", []string{"kubectl describe arkteam {team}", "kubectl describe arkrun {run}"}},
		"ReferenceNotFound": {
			"team {team} refers to something that does not exist", []string{"kubectl describe arkteam {team}", "kubectl get arkagents,arkteams,arkregistries", retry},
		},
		"NameConflict": {"an object that ark did not make has a name that the run needs", []string{"kubectl describe arkrun {run}"}},
		"StoreLost":    {"the queue's store was lost while the run was live, and with it the results of its steps", []string{"ark trigger {team}"}},
		"StatusRefused": {"the API server refuses the status of the run: its schema of ArkRun, or a policy of the cluster", []string{
			"kubectl describe arkrun {run}", "kubectl get validatingadmissionpolicies,validatingwebhookconfigurations", "ark get {run}",
		}},
		"NotRetryable": {"the run could not go on from the one that it retries", []string{"ark runs {team}", "ark trigger {team}"}},
	}
}

// failed says why the run failed: by the step that failed it, or as a whole.
func failed(f *Facts) *Answer {
	s := &f.Run.Status
	if s.Phase != v1alpha1.RunFailed {
		return nil
	}
	reason := ""
	if c := condition(s.Conditions, v1alpha1.ConditionComplete, metav1.ConditionTrue); c != nil {
		reason = c.Reason
	}
	step := failedStep(s)
	if step != nil && step.Reason != "" {
		reason = step.Reason
	}
	if step != nil {
		if child := f.Children[step.TaskID]; child != nil && child.Status.Phase == v1alpha1.RunFailed {
			return &Answer{
				Cause: reason, Message: fmt.Sprintf("step %s failed: the run %s of its team failed", step.Name, child.Name),
				Evidence: said(step.Message), Next: []string{command(f, "ark why %s", child.Name)},
			}
		}
	}
	if reason == v1alpha1.ReasonBudgetExceeded {
		return budgetFailed(f, step)
	}
	a := fill(f, step, reason)
	if step != nil {
		a.Evidence = append(a.Evidence, fmt.Sprintf("step %s failed (%s)", step.Name, cmp.Or(step.Reason, "no reason")))
		a.Evidence = append(a.Evidence, said(step.Message)...)
	} else {
		a.Evidence = append(a.Evidence, said(s.Message)...)
	}
	if reason == "ToolUnavailable" && step != nil {
		a.Evidence = append(a.Evidence, downTools(f.Agents[step.Agent].Agent)...)
	}
	return a.brief()
}

// fill makes an answer of a remedy.
func fill(f *Facts, step *v1alpha1.StepStatus, reason string) *Answer {
	r, known := remedies()[reason]
	if !known {
		r = remedy{cmp.Or(f.Run.Status.Message, "the run failed"), []string{"kubectl describe arkrun {run}", "ark retry {run}"}}
		if step != nil {
			r.message = fmt.Sprintf("step %s failed: %s", step.Name, cmp.Or(step.Message, reason, "it does not say why"))
		}
	}
	stepName, agent, team := "", "", ""
	if step != nil {
		stepName, agent = step.Name, step.Agent
	}
	if t := f.Run.Spec.TeamRef; t != nil {
		team = t.Name
	}
	if a := f.Run.Spec.AgentRef; a != nil {
		agent = a.Name
	}
	secret, key := keyOf(f.Agents[agent].Agent)
	words := strings.NewReplacer("{run}", f.Run.Name, "{step}", stepName, "{agent}", agent, "{team}", team, "{key}", key, "{secret}", secret)
	a := &Answer{Cause: cmp.Or(reason, "Failed"), Message: words.Replace(r.message)}
	for _, n := range r.next {
		if team == "" && strings.Contains(n, "{team}") || stepName == "" && strings.Contains(n, "{step}") {
			continue
		}
		a.Next = append(a.Next, inNamespace(words.Replace(n), f.Run.Namespace))
	}
	return a
}

// inNamespace names the namespace in those commands of a line that ask the cluster.
func inNamespace(line, namespace string) string {
	parts := strings.Split(line, " | ")
	for i := range parts {
		ours := strings.HasPrefix(parts[i], "kubectl ") || strings.HasPrefix(parts[i], "ark ")
		if ours && !strings.HasPrefix(parts[i], "kubectl explain") {
			parts[i] += " -n " + namespace
		}
	}
	return strings.Join(parts, " | ")
}

// failedStep is the step that failed the run; without its name, the first one that failed.
func failedStep(s *v1alpha1.ArkRunStatus) *v1alpha1.StepStatus {
	var first *v1alpha1.StepStatus
	for i := range s.Steps {
		step := &s.Steps[i]
		if step.Name == s.FailedStep && s.FailedStep != "" {
			return step
		}
		if first == nil && step.Phase == v1alpha1.StepFailed {
			first = step
		}
	}
	return first
}

// said is a message as evidence.
func said(message string) []string {
	if message == "" {
		return nil
	}
	return []string{strings.Join(strings.Fields(message), " ")}
}
