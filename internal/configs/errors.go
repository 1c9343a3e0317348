package configs

// Reason says what kind of mistake a request is.
type Reason int

// The reasons.
const (
	Malformed   Reason = iota // the payload cannot be read
	Unknown                   // what it names is not there
	Conflict                  // it contradicts what is there
	Invalid                   // it cannot be
	Unavailable               // what it needs cannot be had now
)

// Error is why a request is refused. The state is as it was.
type Error struct {
	Reason  Reason
	Err     error
	Program *Placed // that is to blame, as far as one is
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }
