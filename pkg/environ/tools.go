package environ

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
)

// MCPServer is an entry of MCP_SERVERS.
type MCPServer struct {
	Name string `json:"name"`
	// URL, or Command and Args.
	URL       string   `json:"url,omitempty"`
	Command   string   `json:"command,omitempty"`
	Args      []string `json:"args,omitempty"`
	Transport string   `json:"transport,omitempty"` // auto, streamable-http, sse, stdio or rest

	Headers []Header `json:"headers,omitempty"`
	Auth    *Auth    `json:"auth,omitempty"`

	Guidance   string  `json:"guidance,omitempty"` // goes into the system prompt unless it stands there
	Required   bool    `json:"required,omitempty"`
	Tools      *Filter `json:"tools,omitempty"`
	Idempotent bool    `json:"idempotent,omitempty"`
}

// Header is an HTTP header. Its value is Value, which is no secret, or is what a variable or a file holds. Read sets Value
// in any case.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value,omitempty"`
	Env   string `json:"env,omitempty"`
	File  string `json:"file,omitempty"`
}

// Auth is how an agent shows who it is: a bearer token in a variable or in a file, which is read anew for every request,
// or a client certificate in files.
type Auth struct {
	Type     string `json:"type"` // bearer or mtls
	Env      string `json:"env,omitempty"`
	File     string `json:"file,omitempty"`
	CertFile string `json:"certFile,omitempty"`
	KeyFile  string `json:"keyFile,omitempty"`
	CAFile   string `json:"caFile,omitempty"`

	// Token is what the variable holds; Read sets it.
	Token string `json:"-"`
}

// Filter selects among the tools of a server.
type Filter struct {
	Allow []string `json:"allow,omitempty"`
	Deny  []string `json:"deny,omitempty"`
}

// WebhookTool is an entry of WEBHOOK_TOOLS.
type WebhookTool struct {
	Name           string   `json:"name"`
	Description    string   `json:"description,omitempty"`
	URL            string   `json:"url"`
	Method         string   `json:"method,omitempty"`
	Headers        []Header `json:"headers,omitempty"`
	InputSchema    Schema   `json:"inputSchema,omitempty"`
	TimeoutSeconds int64    `json:"timeoutSeconds,omitempty"`
	Idempotent     bool     `json:"idempotent,omitempty"`
}

// Timeout of one call, 0 for the default.
func (w *WebhookTool) Timeout() time.Duration { return time.Duration(w.TimeoutSeconds) * time.Second }

// Schema is a JSON Schema. It is written as an object, and read as an object or as a text that holds one.
type Schema json.RawMessage

// MarshalJSON writes the object.
func (s Schema) MarshalJSON() ([]byte, error) {
	if len(s) == 0 {
		return []byte("null"), nil
	}
	return s, nil
}

// UnmarshalJSON reads an object, or a text that holds one.
func (s *Schema) UnmarshalJSON(b []byte) error {
	var text string
	if json.Unmarshal(b, &text) == nil {
		b = []byte(text)
	}
	if !json.Valid(b) {
		return errors.New("inputSchema is not JSON")
	}
	*s = append(Schema(nil), b...)
	return nil
}

func (r *reader) mcpServers() []MCPServer {
	const example = `it must be a JSON list such as [{"name":"search","url":"http://search/mcp"}]`
	var servers []MCPServer
	under := r.json(MCPServers, example, &servers)
	for i := range servers {
		s := &servers[i]
		r.headers(fmt.Sprintf("%s: server %q", under, s.Name), s.Headers)
		if s.Auth != nil {
			r.auth(fmt.Sprintf("%s: server %q", under, s.Name), s.Auth)
		}
	}
	return servers
}

func (r *reader) webhookTools() []WebhookTool {
	const example = `it must be a JSON list such as [{"name":"lookup","url":"http://lookup/","method":"GET"}]`
	var tools []WebhookTool
	under := r.json(WebhookTools, example, &tools)
	for i := range tools {
		t := &tools[i]
		r.headers(fmt.Sprintf("%s: tool %q", under, t.Name), t.Headers)
		if t.TimeoutSeconds < 0 || t.TimeoutSeconds > maxProbeTimeout {
			r.faults = append(r.faults, fmt.Sprintf("%s: tool %q: timeoutSeconds is %d: it must be from 1 to %d", under, t.Name, t.TimeoutSeconds, maxProbeTimeout))
		}
	}
	return tools
}

// json reads a variable that holds JSON, strictly.
func (r *reader) json(name, allowed string, to any) (under string) {
	v, under := r.get(name)
	if v == "" {
		return name
	}
	d := json.NewDecoder(strings.NewReader(v))
	d.DisallowUnknownFields()
	err := d.Decode(to)
	if err == nil {
		if _, more := d.Token(); more != io.EOF { //nolint:errorlint // Token returns it as it is
			err = errors.New("something stands behind it")
		}
	}
	if err != nil {
		r.fault(under, hideValues(v), fmt.Sprintf("%s; %v", allowed, err))
	}
	return under
}

// userinfo is what may stand before a host.
var userinfo = regexp.MustCompile(`://[^/\s"@]*@`)

// hideValues hides what may be a secret although none should be there: the user and password of an address.
func hideValues(text string) string { return userinfo.ReplaceAllString(text, "://***@") }

func (r *reader) headers(where string, all []Header) {
	for i := range all {
		h := &all[i]
		value, fault := r.secret(h.Env, h.File)
		switch {
		case h.Name == "":
			fault = "its name is missing"
		case (h.Value != "" && h.Env+h.File != "") || (h.Value == "" && h.Env == "" && h.File == ""):
			fault = "it needs exactly one of value, env and file"
		case h.Value != "":
			value = h.Value
		}
		if fault != "" {
			r.faults = append(r.faults, fmt.Sprintf("%s: header %q: %s", where, h.Name, oneLine(fault)))
		}
		h.Value = value
	}
}

// secret is what a variable or a file holds.
func (r *reader) secret(env, file string) (value, fault string) {
	switch {
	case env != "" && file != "":
		return "", "it needs exactly one of value, env and file"
	case env != "":
		if value = r.source.Getenv(env); value == "" {
			fault = fmt.Sprintf("the variable %s is not set", env)
		}
	case file != "":
		b, err := r.source.ReadFile(file)
		if err != nil {
			return "", fmt.Sprintf("the file %s cannot be read: %v", file, err)
		}
		if value = strings.TrimSpace(string(b)); value == "" {
			fault = fmt.Sprintf("the file %s is empty", file)
		}
	}
	return value, fault
}

func (r *reader) auth(where string, a *Auth) {
	fault := ""
	switch {
	case a.Type == "bearer" && (a.Env == "") == (a.File == ""):
		fault = "it needs exactly one of env and file"
	case a.Type == "bearer" && a.CertFile+a.KeyFile+a.CAFile != "", a.Type == "mtls" && a.Env+a.File != "":
		fault = "env and file are for bearer, certFile, keyFile and caFile for mtls"
	case a.Type == "bearer":
		var value string
		if value, fault = r.secret(a.Env, a.File); a.Env != "" {
			a.Token = value
		}
	case a.Type == "mtls" && (a.CertFile == "" || a.KeyFile == ""):
		fault = "it needs certFile and keyFile"
	case a.Type == "mtls":
		for _, file := range []string{a.CertFile, a.KeyFile, a.CAFile} {
			if _, f := r.secret("", file); f != "" && file != "" {
				fault = f
			}
		}
	default:
		fault = fmt.Sprintf("its type is %q: it must be one of bearer, mtls", a.Type)
	}
	if fault != "" {
		r.faults = append(r.faults, fmt.Sprintf("%s: auth: %s", where, oneLine(fault)))
	}
}

// SecretNames are the variables that hold secrets of ark itself, and those that the agent's tools name. They are kept from
// the commands that ark starts.
func (a *Agent) SecretNames() []string {
	var names []string
	for _, name := range []string{OpenAIKey, AnthropicKey, NATSURL, NATSCreds} {
		names = append(names, aliases(name)...)
	}
	add := func(headers []Header) {
		for _, h := range headers {
			if h.Env != "" {
				names = append(names, h.Env)
			}
		}
	}
	for _, s := range a.MCPServers {
		add(s.Headers)
		if s.Auth != nil && s.Auth.Env != "" {
			names = append(names, s.Auth.Env)
		}
	}
	for _, t := range a.WebhookTools {
		add(t.Headers)
	}
	return append(names, a.Memory.secretNames()...)
}
