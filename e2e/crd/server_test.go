package crd

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
)

// server is what the API server makes of the CRDs: for each kind its strategy and its structural schema.
type server map[string]*kind

type kind struct {
	crd      *apiextensionsv1.CustomResourceDefinition
	schema   *structuralschema.Structural
	validate func(obj *unstructured.Unstructured, old *unstructured.Unstructured) field.ErrorList
}

// newServer loads every CRD.
func newServer(t *testing.T) server {
	t.Helper()
	files, err := filepath.Glob("../../crds/*.yaml")
	require.NoError(t, err)
	s := server{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		crd := &apiextensionsv1.CustomResourceDefinition{}
		require.NoError(t, yaml.UnmarshalStrict(text, crd))
		apiextensionsv1.SetDefaults_CustomResourceDefinition(crd)
		apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&crd.Spec)
		s[crd.Spec.Names.Kind] = newKind(t, crd)
	}
	require.Len(t, s, len(v1alpha1.Kinds()))
	return s
}

func internal(t *testing.T, crd *apiextensionsv1.CustomResourceDefinition) *apiextensions.CustomResourceDefinition {
	t.Helper()
	out := &apiextensions.CustomResourceDefinition{}
	require.NoError(t, apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(crd, out, nil))
	return out
}

func newKind(t *testing.T, crd *apiextensionsv1.CustomResourceDefinition) *kind {
	t.Helper()
	in := internal(t, crd)
	schema := in.Spec.Validation.OpenAPIV3Schema
	structural, err := structuralschema.NewStructural(schema)
	require.NoError(t, err)
	validator, _, err := validation.NewSchemaValidator(schema)
	require.NoError(t, err)
	status := schema.Properties["status"]
	statusValidator, _, err := validation.NewSchemaValidator(&status)
	require.NoError(t, err)
	strategy := customresource.NewStrategy(runtime.NewScheme(), true, v1alpha1.Kind(crd.Spec.Names.Kind), validator, statusValidator,
		structural, &apiextensions.CustomResourceSubresourceStatus{}, in.Spec.Subresources.Scale, nil)
	return &kind{crd: crd, schema: structural, validate: func(obj, old *unstructured.Unstructured) field.ErrorList {
		if old == nil {
			return strategy.Validate(t.Context(), obj)
		}
		return strategy.ValidateUpdate(t.Context(), obj, old)
	}}
}

// decode does what the API server does with a document before it is checked: it drops unknown fields and nulls, and
// fills in defaults. It returns the object and the unknown fields, which a strict client refuses.
func (k *kind) decode(doc map[string]any) (*unstructured.Unstructured, []string) {
	object := runtime.DeepCopyJSON(doc)
	unknown := pruning.PruneWithOptions(object, k.schema, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	defaulting.PruneNonNullableNullsWithoutDefaults(object, k.schema)
	defaulting.Default(object, k.schema)
	return &unstructured.Unstructured{Object: object}, unknown
}

// create returns the object that the API server would store, and what is wrong with it, unknown fields among it.
func (k *kind) create(doc map[string]any) (*unstructured.Unstructured, []string) {
	object, unknown := k.decode(doc)
	var problems []string
	for _, path := range unknown {
		problems = append(problems, "unknown field "+path)
	}
	for _, err := range k.validate(object, nil) {
		problems = append(problems, err.Error())
	}
	return object, problems
}

// readYAML decodes a file strictly.
func readYAML(t *testing.T, file string, into any) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, yaml.UnmarshalStrict(text, into), file)
}
