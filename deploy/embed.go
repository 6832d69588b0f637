// Package deploy holds ark's plain manifests, which are generated from the chart beside them, so that an executable can
// install what it is released with.
package deploy

import _ "embed"

// CRDs returns the definitions of ark's kinds, as YAML documents.
func CRDs() []byte { return []byte(crds) }

// Operator returns the operator and all that it needs, its namespace first, as YAML documents: in the namespace
// ark-system, looking after all namespaces.
func Operator() []byte { return []byte(operator) }

var (
	//go:embed manifests/crds.yaml
	crds string
	//go:embed manifests/operator.yaml
	operator string
)
