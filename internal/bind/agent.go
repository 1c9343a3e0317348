package bind

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"l3af"
	"l3af/internal/near"
)

// agent checks that what an agent runs is in the package, and that its files
// have a place there.
func (b *binder) agent(a *l3af.Agent) {
	if a == nil {
		return
	}
	files := b.pkg.Files()
	runnable := slices.DeleteFunc(slices.Clone(files), func(name string) bool { return !b.pkg.Executable(name) })
	for _, c := range []struct {
		name  string
		words []string
	}{{"start", a.Start}, {"stop", a.Stop}, {"status", a.Status}, {"update", a.Update}} {
		if len(c.words) == 0 || slices.Contains(runnable, c.words[0]) {
			continue
		}
		at, word := fmt.Sprintf(".agent.%s[0]", c.name), clip(c.words[0])
		switch {
		case slices.Contains(files, c.words[0]):
			b.fail(at, "chmod +x before it is packed", "%q of package %s is not executable", word, b.pkg.Manifest.Name)
		case len(b.pkg.Manifest.Programs) > 0 && len(runnable) == 0:
			b.fail(at, "its package.yaml must list it in files", "package %s has no file %q", b.pkg.Manifest.Name, word)
		default:
			b.fail(at, near.Hint(c.words[0], runnable), "package %s has no file %q that can be run", b.pkg.Manifest.Name, word)
		}
	}
	all := slices.Sorted(maps.Keys(a.Files))
	for _, name := range all {
		for _, other := range slices.Concat(files, all) {
			if strings.HasPrefix(other, name+"/") || strings.HasPrefix(name, other+"/") {
				b.fail(fmt.Sprintf(".agent.files[%q]", name), "", "%s is a file, and cannot be a directory as well", clip(min(name, other)))
				break
			}
		}
	}
}
