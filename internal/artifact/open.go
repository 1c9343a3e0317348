package artifact

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Opener opens packages by reference, from several goroutines if need be. The
// zero value fetches with no certificates of its own, and everything anew.
type Opener struct {
	remote Remote
	log    *slog.Logger
	store  *Store // nil: everything is fetched whole, each time
	client *http.Client
}

// NewOpener makes an opener that asks servers only whether what the store has
// from them is still right. log may be nil.
func NewOpener(r Remote, store *Store, log *slog.Logger) (*Opener, error) {
	client, err := r.client()
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Opener{r, log, store, client}, nil
}

// Open opens a package by reference: builtin:NAME; the absolute path or file://
// URL of a directory with a package.yaml, of an archive (.tar.gz, .tgz, .zip)
// or of a bare object (.o); or the http:// or https:// URL of one of the latter.
// Relative paths are refused: the daemon does not know what they are relative to.
//
// errors.Is(err, fs.ErrNotExist): there is no such package. The mistakes of a
// manifest are a [*l3af.InvalidError]. When ctx ends, so does a download.
func (o *Opener) Open(ctx context.Context, ref string) (*Package, error) {
	if all, ok := ctx.Value(once{}).(*sync.Map); ok {
		get, _ := all.LoadOrStore(ref, sync.OnceValues(func() (*Package, error) { return o.anew(ctx, ref) }))
		return get.(func() (*Package, error))()
	}
	return o.anew(ctx, ref)
}

// once is the key of a context's packages.
type once struct{}

// Once gives a context in which each package is opened once: who opens it again
// gets the same one, or the same error, whatever there is by now.
func Once(ctx context.Context) context.Context {
	return context.WithValue(ctx, once{}, new(sync.Map))
}

func (o *Opener) anew(ctx context.Context, ref string) (*Package, error) {
	p, err := o.open(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("open package %s: %w", clip(ref), err)
	}
	p.Ref = ref
	return p, nil
}

func (o *Opener) open(ctx context.Context, ref string) (*Package, error) {
	if name, ok := strings.CutPrefix(ref, "builtin:"); ok {
		return builtin(name)
	}
	scheme, _, isURL := strings.Cut(ref, "://")
	switch scheme = strings.ToLower(scheme); {
	case isURL && (scheme == "http" || scheme == "https"):
		return o.download(ctx, ref)
	case isURL && scheme != "file":
		return nil, fmt.Errorf("packages do not come from %s:// (but from builtin:NAME, paths, file://, http:// and https://)", clip(scheme))
	case !strings.HasPrefix(ref, "file:"):
		return local(ref)
	}
	u, err := url.Parse(ref)
	if err != nil || u.Host != "" && u.Host != "localhost" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("not the file:// URL of a path on this machine")
	}
	if u.Opaque != "" {
		return local(u.Opaque)
	}
	return local(u.Path)
}

// Remote says how packages are fetched from other machines.
type Remote struct {
	// CA names a file with certificates (PEM) that https servers may be vouched
	// for by, besides those the system trusts.
	CA string
	// Certificate and Key name files (PEM) for servers that ask who we are.
	// They are read anew for each connection.
	Certificate, Key string
	// Timeout is how long one download may take as a whole; 0: two minutes.
	Timeout time.Duration
}

// The times a server has.
const (
	toConnect = 10 * time.Second // and again for TLS
	toAnswer  = 30 * time.Second // until the header of its answer
	toSend    = 2 * time.Minute  // Remote.Timeout where there is none
)
