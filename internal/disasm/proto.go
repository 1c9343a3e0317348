package disasm

import (
	"fmt"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// Prototype is the head of a function as bpftool writes it, as in
// "int count(struct xdp_md * ctx)"; "" where its type cannot be told.
func Prototype(f *btf.Func) string {
	if f == nil {
		return ""
	}
	p, ok := f.Type.(*btf.FuncProto)
	if !ok {
		return ""
	}
	return PrototypeOf(p, f.Name)
}

// PrototypeOf is [Prototype] of a type of functions; name may be "".
func PrototypeOf(p *btf.FuncProto, name string) string {
	text, err := prototype(p, name, 0)
	if err != nil {
		return ""
	}
	return text
}

// prototype ends in no space; types do where a name may follow.
func prototype(p *btf.FuncProto, name string, depth int) (string, error) {
	var b strings.Builder
	result, err := typeText(p.Return, depth+1)
	if err != nil {
		return "", err
	}
	b.WriteString(result + name + "(")
	for i, param := range p.Params {
		if i > 0 {
			b.WriteString(", ")
		}
		// A parameter without a type stands for all that follow.
		if _, ok := param.Type.(*btf.Void); ok || param.Type == nil {
			b.WriteString("...")
			continue
		}
		text, err := typeText(param.Type, depth+1)
		if err != nil {
			return "", err
		}
		if param.Name == "" {
			text = strings.TrimSuffix(text, " ")
		}
		b.WriteString(text + param.Name)
	}
	return b.String() + ")", nil
}

// maxDepth bounds types that lead back to themselves, which the kernel refuses.
const maxDepth = 32

func typeText(t btf.Type, depth int) (string, error) {
	if depth > maxDepth {
		return "", fmt.Errorf("type %s is nested too deeply", t.TypeName())
	}
	before := func(word string, t btf.Type) (string, error) {
		text, err := typeText(t, depth+1)
		return word + text, err
	}
	switch t := t.(type) {
	case nil, *btf.Void:
		return "void ", nil
	case *btf.Int, *btf.Typedef, *btf.Float:
		return t.TypeName() + " ", nil
	case *btf.Struct:
		return "struct " + t.Name + " ", nil
	case *btf.Union:
		return "union " + t.Name + " ", nil
	case *btf.Enum:
		return "enum " + t.Name + " ", nil
	case *btf.Fwd:
		return t.Kind.String() + " " + t.Name + " ", nil
	case *btf.Array:
		text, err := typeText(t.Type, depth+1)
		return fmt.Sprintf("%s[%d]", text, t.Nelems), err
	case *btf.Pointer:
		text, err := typeText(t.Target, depth+1)
		return text + "* ", err
	case *btf.Const:
		return before("const ", t.Type)
	case *btf.Volatile:
		return before("volatile ", t.Type)
	case *btf.Restrict:
		return before("restrict ", t.Type)
	case *btf.TypeTag:
		return typeText(t.Type, depth+1)
	case *btf.FuncProto:
		return prototype(t, "", depth+1)
	}
	return "", fmt.Errorf("type %s is of no function", t.TypeName())
}
