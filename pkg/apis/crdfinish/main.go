// Command crdfinish completes the CRDs that controller-gen has written, and derives from them the schemas that
// pkg/apis/v1alpha1 checks documents with.
//
// What markers cannot say is added here: below the roles of an ArkTeam there are no defaults (a role that says
// nothing must stay distinguishable from one that says the default), what the types of k8s.io/api leave
// unbounded gets a bound, and a field that takes any value takes null too. It is a step of `make generate` and does nothing the second time.
//
//	crdfinish <folder of CRDs> <Go file to write>
package main

import (
	"log"
	"os"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: crdfinish <folder of CRDs> <Go file to write>")
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		log.Fatalf("finish CRDs: %v", err)
	}
}
