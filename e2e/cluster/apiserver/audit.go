package apiserver

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// An Entry is one request as the audit log has it.
type Entry struct {
	Verb        string // get, list, watch, create, update, patch, delete, deletecollection
	User        string
	Agent       string // the client's User-Agent
	Group       string // "" is the core group, and what is no resource
	Resource    string
	Subresource string
	Namespace   string
	Name        string
	URI         string
	Code        int       // the HTTP status
	Reason      string    // why it was allowed or denied, in the authorizer's words
	Time        time.Time // when it was answered
}

// Write reports whether the request was to change something.
func (e Entry) Write() bool {
	switch e.Verb {
	case "create", "update", "patch", "delete", "deletecollection":
		return true
	}
	return false
}

// Denied reports whether the user had no right to the request. A request that was refused for another reason, such as
// one to create something in a namespace that is being deleted, has the same status.
func (e Entry) Denied() bool { return e.Code == http.StatusForbidden && e.Reason == "" }

// ReadAudit reads an audit log. The line that is just being written, if any, is left out.
func ReadAudit(path string) ([]Entry, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	defer file.Close()
	var entries []Entry
	for reader := bufio.NewReader(file); ; {
		line, err := reader.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the audit log: %w", err)
		}
		entry, err := decodeEntry(line)
		if err != nil {
			return nil, fmt.Errorf("read the audit log %s, line %d: %w", path, len(entries)+1, err)
		}
		entries = append(entries, entry)
	}
}

// Audit reads the server's audit log.
func (s *Server) Audit() ([]Entry, error) { return ReadAudit(s.AuditLog()) }

func decodeEntry(line []byte) (Entry, error) {
	var event struct {
		Verb           string                    `json:"verb"`
		RequestURI     string                    `json:"requestURI"`
		UserAgent      string                    `json:"userAgent"`
		StageTimestamp time.Time                 `json:"stageTimestamp"`
		User           struct{ Username string } `json:"user"`
		ResponseStatus struct{ Code int }        `json:"responseStatus"`
		Annotations    map[string]string         `json:"annotations"`
		ObjectRef      struct {
			Resource    string `json:"resource"`
			Subresource string `json:"subresource"`
			Namespace   string `json:"namespace"`
			Name        string `json:"name"`
			APIGroup    string `json:"apiGroup"`
		} `json:"objectRef"`
	}
	if err := json.Unmarshal(line, &event); err != nil {
		return Entry{}, err
	}
	object := event.ObjectRef
	return Entry{
		Verb: event.Verb, User: event.User.Username, Agent: event.UserAgent,
		Group: object.APIGroup, Resource: object.Resource, Subresource: object.Subresource, Namespace: object.Namespace, Name: object.Name,
		URI: event.RequestURI, Code: event.ResponseStatus.Code, Reason: event.Annotations["authorization.k8s.io/reason"], Time: event.StageTimestamp,
	}, nil
}
