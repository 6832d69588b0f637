package v1alpha1

import (
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Validate returns everything that is wrong with the agent, in the words of the API server where there is a CEL rule.
func (a *ArkAgent) Validate() field.ErrorList {
	r := newReport("ArkAgent", a, a.ObjectMeta)
	r.name(MaxAgentNameLength, "metadata.name must not be longer than 57 characters, so that the name of its Deployment fits 63")
	r.must(!bothPrompts(&a.Spec.AgentTemplate), r.spec, msgPrompts)
	r.template(r.spec, &a.Spec.AgentTemplate)
	return r.errs
}

// Validate returns everything that is wrong with the team by itself, in the words of the API server where there is a
// CEL rule. What needs the graph of steps, a parsed template or another object is checked by pkg/pipeline.
func (t *ArkTeam) Validate() field.ErrorList {
	r := newReport("ArkTeam", t, t.ObjectMeta)
	r.teamName(t)
	s := &t.Spec
	hasRoles, hasPipeline, hasEntry := len(s.Roles) > 0, len(s.Pipeline) > 0, s.Entry != ""
	r.must(s.Routing != nil || hasPipeline || hasEntry, r.spec, "a team needs one of pipeline, entry and routing")
	r.must(s.Routing == nil || (!hasPipeline && !hasEntry && !hasRoles), r.spec, "a team with routing has no roles, no pipeline and no entry")
	r.must(!hasEntry || t.Role(s.Entry) != nil, r.spec, "entry must be the name of a role")
	for i := range s.Pipeline {
		step := &s.Pipeline[i]
		r.must(step.RegistryLookup != nil || t.Role(step.Role) != nil, r.spec.Child("pipeline").Index(i).Child("role"),
			"the role of every step without registryLookup must be the name of a role")
	}
	for i := range s.Roles {
		r.role(r.spec.Child("roles").Index(i), &s.Roles[i])
	}
	r.duration(r.spec.Child("runRetainFor"), s.RunRetainFor)
	return r.errs
}

// Validate returns everything that is wrong with the run, in the words of the API server where there is a CEL rule.
func (n *ArkRun) Validate() field.ErrorList {
	r := newReport("ArkRun", n, n.ObjectMeta)
	r.name(MaxNameLength, msgNameLength)
	s := &n.Spec
	r.must((s.TeamRef != nil) != (s.AgentRef != nil), r.spec, "a run needs exactly one of teamRef and agentRef")
	r.must(s.AgentRef == nil || s.Prompt != "", r.spec, "a run of an agent needs a prompt")
	r.must(s.AgentRef == nil || (len(s.Pipeline) == 0 && s.Entry == "" && s.Routing == nil), r.spec,
		"a run of an agent has no pipeline, no entry and no routing")
	if retry := s.RetryOf; retry != nil {
		r.must(retry.Name != n.Name, nil, "a run cannot retry itself: spec.retryOf.name is its own name")
		r.must(s.AgentRef == nil || retry.Step == "", r.spec, "a run of an agent has one step only: leave retryOf.step out")
	}
	for i := range s.Roles {
		role := &s.Roles[i]
		r.must((role.Agent != "") != (role.Team != ""), r.spec.Child("roles").Index(i), "a role of a run needs exactly one of agent and team")
	}
	return r.errs
}

// Role returns the role with a name, or nil.
func (t *ArkTeam) Role(name string) *Role {
	i := slices.IndexFunc(t.Spec.Roles, func(r Role) bool { return r.Name == name })
	if i < 0 {
		return nil
	}
	return &t.Spec.Roles[i]
}

// Resolved says whether the spec has a snapshot of its team in it, or needs none because it is one agent's work.
func (s *ArkRunSpec) Resolved() bool {
	return s.AgentRef != nil || len(s.Pipeline) > 0 || s.Entry != "" || s.Routing != nil
}

func (r *report) teamName(t *ArkTeam) {
	r.name(MaxTeamNameLength, "metadata.name must not be longer than 48 characters, so that the names of its runs fit 63")
	r.must(t.Spec.Entry == "" || t.Name == "" || isServiceName(t.Name), nil, "metadata.name of a team with an entry also "+
		"names a Service: it must start with a letter and hold only lower case letters, digits and hyphens")
	for i := range t.Spec.Roles {
		role := &t.Spec.Roles[i]
		r.must(role.Model == "" || len(RoleAgentName(t.Name, role.Name)) <= MaxAgentNameLength, r.spec.Child("roles").Index(i).Child("name"),
			"metadata.name and the name of an inline role must not be longer than 56 characters together, so that the name of "+
				"the role's Deployment fits 63")
	}
}

func (r *report) role(path *field.Path, role *Role) {
	r.must(count(role.Model != "", role.ArkAgent != "", role.ArkTeam != "") == 1, path,
		"a role needs exactly one of model (an inline agent), arkAgent and arkTeam")
	r.must(role.Model != "" || reflect.ValueOf(role.AgentTemplate).IsZero(), path,
		"a role with arkAgent or arkTeam takes everything from there: the fields of an inline agent need model")
	r.must(!bothPrompts(&role.AgentTemplate), path, msgPrompts)
	r.must(!slices.Contains(role.CanDelegate, role.Name), path, "a role cannot delegate to itself")
	r.must(len(role.CanDelegate) == 0 || role.ArkTeam == "", path, "a role with arkTeam cannot delegate: the roles of that team may")
	r.template(path, &role.AgentTemplate)
}

// template checks what agents and inline roles share.
func (r *report) template(path *field.Path, a *AgentTemplate) {
	if ref := a.SystemPromptRef; ref != nil {
		r.must((ref.ConfigMapKeyRef != nil) != (ref.SecretKeyRef != nil), path.Child("systemPromptRef"),
			"systemPromptRef needs exactly one of configMapKeyRef and secretKeyRef")
	}
	for i := range a.MCPServers {
		r.mcpServer(path.Child("mcpServers").Index(i), &a.MCPServers[i])
	}
	for i := range a.Tools {
		tool := path.Child("tools").Index(i)
		r.headers(tool.Child("headers"), a.Tools[i].Headers)
		r.jsonObject(tool.Child("inputSchema"), a.Tools[i].InputSchema)
	}
	for i := range a.Capabilities {
		r.jsonObject(path.Child("capabilities").Index(i).Child("inputSchema"), a.Capabilities[i].InputSchema)
	}
	if scaling := a.Autoscaling.DeepCopy(); scaling != nil {
		scaling.setDefaults()
		r.must(*scaling.MinReplicas <= scaling.MaxReplicas, path.Child("autoscaling"), "minReplicas must not be greater than maxReplicas")
	}
}

func (r *report) mcpServer(path *field.Path, s *MCPServer) {
	r.must((s.URL != "") != (s.Command != ""), path, "an MCP server needs exactly one of url and command")
	r.must(len(s.Args) == 0 || s.Command != "", path, "args needs command")
	r.must(s.Transport == "" || s.Transport == TransportAuto || (s.Transport == TransportStdio) == (s.Command != ""), path,
		"transport stdio goes with command, the others with url")
	r.must(s.Command == "" || (len(s.Headers) == 0 && s.Auth == nil), path, "headers and auth need url")
	r.headers(path.Child("headers"), s.Headers)
	if auth := s.Auth; auth != nil {
		r.must(count(auth.TokenSecretRef != nil, auth.Bearer != nil, auth.MTLS != nil) == 1, path.Child("auth"),
			"auth needs exactly one of tokenSecretRef, bearer and mtls")
		r.must(auth.Type == "" || (auth.Type == MCPAuthMTLS) == (auth.MTLS != nil), path.Child("auth"),
			"type mtls goes with mtls, type bearer with tokenSecretRef or bearer")
	}
}

func bothPrompts(a *AgentTemplate) bool { return a.SystemPrompt != "" && a.SystemPromptRef != nil }
