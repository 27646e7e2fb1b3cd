package causes

// Word is a code that stands where no proxy's cause does: in answers, and in stories of requests in which no proxy had a part.
type Word string

// Words.
const (
	Denied   Word = "denied"
	Answered Word = "application_answered"
	OK       Word = "ok"
)

var wordTable = map[Word]struct{ sentence, remedy string }{
	Denied: {"a policy of the destination does not let the request pass; callers are told no more than that (x-weir-why, google.rpc.ErrorInfo)",
		"whoever runs the mesh is told by `weir why` which policy it was, and why: give the request's id"},
	Answered: {"the application itself answered with an error (5xx, or a gRPC status that means the same), and no proxy did",
		"look into the application's log of that moment"},
	OK: {"the request went well", "nothing; `weir why --last-errors` tells of requests that did not"},
}

// Words are all of them.
func Words() []Word { return []Word{Denied, Answered, OK} }

// Sentence explains the word to an operator.
func (w Word) Sentence() string { return wordTable[w].sentence }

// Remedy says what to look at.
func (w Word) Remedy() string { return wordTable[w].remedy }

// Docs is where the documentation tells of the word.
func (w Word) Docs() string { return Page + "#" + string(w) }
