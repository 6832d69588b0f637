package task

// maxSession bounds the name of a session, in bytes; longer ones are hashed.
const maxSession = 100

// Session names the conversation that a task belongs to. What an agent remembers is kept apart by it: the tasks of one
// agent with the same session share their memory, over runs and restarts. It is the run's own Session where a trigger
// gave one, else the run's team, so that an agent which serves two teams does not mix them up, else the agent alone.
func (t *Task) Session() string {
	switch {
	case t.Run.Session != "":
		return short("session." + t.Run.Session)
	case t.Run.Team != "":
		return short("team." + t.Run.Team)
	default:
		return "agent"
	}
}

func short(name string) string {
	if len(name) <= maxSession {
		return name
	}
	return "hash." + hash("session", name)
}
