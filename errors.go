package l3af

import (
	"errors"
	"fmt"
	"strings"
)

// Mistake is one thing wrong with a document.
type Mistake struct {
	Path    string `json:"path"` // chains[1].programs[0].package
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

func (m Mistake) String() string {
	s := m.Message
	if m.Path != "" {
		s = m.Path + ": " + s
	}
	if m.Hint != "" {
		s += " (" + m.Hint + ")"
	}
	return s
}

// InvalidError says everything that is wrong with a document.
type InvalidError struct {
	Mistakes []Mistake
}

func (e *InvalidError) Error() string {
	lines := make([]string, len(e.Mistakes))
	for i, m := range e.Mistakes {
		lines[i] = m.String()
	}
	return strings.Join(lines, "\n")
}

// ConflictError says that another state was applied first.
type ConflictError struct {
	Current int  // the revision in force
	Busy    bool // another apply is under way
}

func (e *ConflictError) Error() string {
	if e.Busy {
		return fmt.Sprintf("another apply is under way (current revision %d)", e.Current)
	}
	return fmt.Sprintf("the state has changed: current revision is %d", e.Current)
}

var (
	// ErrNotFound is returned for a revision, chain or package that does not exist.
	ErrNotFound = errors.New("not found")
	// ErrForbidden is returned to a peer that may not write.
	ErrForbidden = errors.New("permission denied")
)
