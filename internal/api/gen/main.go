// Command gen writes the OpenAPI description of the HTTP API.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"strings"

	"github.com/swaggest/jsonschema-go"
	"github.com/swaggest/openapi-go"
	"github.com/swaggest/openapi-go/openapi31"

	"l3af"
	"l3af/internal/api"
	"l3af/internal/configs"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gen FILE")
		os.Exit(2)
	}
	text, err := describe()
	if err == nil {
		err = os.WriteFile(os.Args[1], text, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

// describe makes the OpenAPI description of the API's routes and Go types.
func describe() ([]byte, error) {
	r := openapi31.NewReflector()
	r.Spec.Info.WithTitle("l3afd").WithVersion("1").
		WithDescription("The API of one node of the Lightweight eBPF Application Foundation. " +
			"On the unix socket root and the members of the group l3af may write, everybody may read; over TCP those write who show a certificate and, where l3afd is told so, root's processes on loopback.")
	r.DefaultOptions = append(r.DefaultOptions,
		jsonschema.InterceptDefName(func(t reflect.Type, _ string) string {
			name := strings.ToUpper(t.Name()[:1]) + t.Name()[1:]
			if isConfigs(t) {
				name = "Configs" + name
			}
			return name
		}),
		jsonschema.InterceptProp(required),
		jsonschema.InterceptNullability(func(p jsonschema.InterceptNullabilityParams) {
			// The server sends empty lists and maps, never null.
			if p.NullAdded {
				p.Schema.RemoveType(jsonschema.Null)
			}
		}),
		jsonschema.InterceptSchema(words),
	)
	for _, route := range api.Routes() {
		if err := add(r, route); err != nil {
			return nil, fmt.Errorf("%s %s: %w", route.Method, route.Path, err)
		}
	}
	text, err := json.Marshal(r.Spec)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, text, "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

func add(r *openapi31.Reflector, route api.Route) error {
	op, err := r.NewOperationContext(route.Method, route.Path)
	if err != nil {
		return err
	}
	op.SetID(route.ID)
	op.SetSummary(route.Summary)
	if route.Description != "" {
		op.SetDescription(route.Description)
	}
	if route.Params != nil {
		op.AddReqStructure(route.Params)
	}
	if route.Body != nil {
		op.AddReqStructure(route.Body, openapi.WithContentType("application/json"))
	}
	for _, a := range route.Answers {
		mime := a.Type
		if mime == "" {
			mime = "application/json"
		}
		body := a.Body
		switch body.(type) {
		case nil:
			body = ""
		case api.NoBody:
			body, mime = nil, ""
		}
		op.AddRespStructure(body, func(cu *openapi.ContentUnit) {
			cu.HTTPStatus = a.Status
			cu.ContentType = mime
			cu.Description = a.Description
		})
	}
	if err := r.AddOperation(op); err != nil || route.Body == nil {
		return err
	}
	// The generator does not know that YAML has the same shape as JSON.
	item := r.Spec.Paths.MapOfPathItemValues[route.Path]
	made := item.Put
	if route.Method == http.MethodPost {
		made = item.Post
	}
	body := made.RequestBody.RequestBody
	body.WithRequired(!route.Optional)
	if route.YAML {
		body.Content["application/yaml"] = body.Content["application/json"]
	}
	return nil
}

// required: a property that is never left out is required.
func required(p jsonschema.InterceptPropParams) error {
	if !p.Processed || p.Field.Tag.Get("json") == "" {
		return nil
	}
	p.PropertySchema.RemoveType(jsonschema.Null) // what is not there is left out
	if _, options, _ := strings.Cut(p.Field.Tag.Get("json"), ","); !strings.Contains(options, "omitempty") {
		p.ParentSchema.Required = append(p.ParentSchema.Required, p.Name)
	}
	return nil
}

// isConfigs reports whether a type is of L3AF's API, which has names that ours
// has as well.
func isConfigs(t reflect.Type) bool {
	return t.PkgPath() == reflect.TypeFor[configs.Program]().PkgPath()
}

// asUpstream describes a type of L3AF's API: nothing needs to be sent, and
// lists and maps can be null.
func asUpstream(t reflect.Type, s *jsonschema.Schema) {
	s.Required = nil
	for i := range t.NumField() {
		f := t.Field(i)
		if k := f.Type.Kind(); k == reflect.Slice || k == reflect.Map {
			if p, ok := s.Properties[f.Tag.Get("json")]; ok && p.TypeObject != nil {
				p.TypeObject.AddType(jsonschema.Null)
			}
		}
	}
}

// words gives the types of the root package the words that they can be.
func words(p jsonschema.InterceptSchemaParams) (bool, error) {
	if !p.Processed {
		return false, nil
	}
	t := p.Value.Type()
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if isConfigs(t) && t.Kind() == reflect.Struct {
		asUpstream(t, p.Schema)
	}
	enum := func(list ...any) { p.Schema.WithEnum(list...) }
	switch p.Value.Type() {
	case reflect.TypeFor[l3af.HookKind]():
		for _, k := range l3af.HookKinds() {
			p.Schema.Enum = append(p.Schema.Enum, k)
		}
	case reflect.TypeFor[l3af.Mode]():
		enum(l3af.Auto, l3af.Native, l3af.Generic, l3af.Offload)
	case reflect.TypeFor[l3af.MapChange]():
		enum(l3af.RefuseMapChange, l3af.ResetMapChange)
	case reflect.TypeFor[l3af.ChainStatus](), reflect.TypeFor[l3af.ProbeStatus]():
		enumerate(p.Schema, "state", l3af.Running, l3af.Waiting, l3af.Failed, l3af.Disabled)
	case reflect.TypeFor[l3af.State](), reflect.TypeFor[l3af.Chain](), reflect.TypeFor[l3af.Program](),
		reflect.TypeFor[l3af.Probe](), reflect.TypeFor[l3af.MapEntry]():
		// What people write is taken strictly.
		no := false
		p.Schema.AdditionalProperties = &jsonschema.SchemaOrBool{TypeBoolean: &no}
	case reflect.TypeFor[api.Problem]():
		p.Schema.WithTitle("What an answer other than success says (RFC 9457)")
		enumerate(p.Schema, "code", api.Codes()...)
	}
	return false, nil
}

// enumerate lists what a property can be. The schema of the headers of an
// answer, which is made of the same types, has no properties.
func enumerate(s *jsonschema.Schema, property string, words ...string) {
	p, ok := s.Properties[property]
	if !ok || p.TypeObject == nil {
		return
	}
	for _, w := range words {
		p.TypeObject.Enum = append(p.TypeObject.Enum, w)
	}
}
