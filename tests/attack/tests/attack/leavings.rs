//! What a tenant leaves where nothing of ours reaches: in another database of the server. It must not keep the tenant from
//! being deleted, nor open anything afterwards.

use harness::{DataPlane, TenantSpec};
use sqlx::{Connection as _, PgConnection};
use tenancy::RoleName;

use crate::ground::{self, Login, Outcome, administer, ask};

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_cannot_keep_itself_from_being_deleted() {
    let plane = DataPlane::start().await.unwrap();
    let tenants = ground::tenants(&plane, "leaves", 2, TenantSpec::default()).await;
    for tenant in &tenants {
        ground::admit(&plane, tenant).await;
        let elsewhere = ground::own_url(&plane, tenant).replace("/stellar", "/postgres");
        let left = ground::run(&mut PgConnection::connect(&elsewhere).await.unwrap(), "SELECT lo_create(0)").await;
        assert!(matches!(left, Outcome::Rows(_)), "Postgres lets every login do so: {}", left.text());
    }
    let drop = async |tenant: &harness::Tenant| {
        let mut operator = plane.login("operator").await.unwrap();
        let erased = sqlx::query("SELECT stellar.tenant_erase($1, $2, 100)").bind(tenant.id.uuid()).bind(&tenant.name);
        erased.execute(&mut operator).await.unwrap();
        sqlx::query_scalar::<_, bool>("SELECT stellar.role_drop($1)")
            .bind(tenant.id.uuid())
            .fetch_one(&mut operator)
            .await
    };
    assert!(drop(&tenants[0]).await.unwrap());
    let role = RoleName::of(tenants[0].id);
    let opens = format!(
        "SELECT r.rolcanlogin OR pg_has_role(r.oid, 'stellar_tenants', 'MEMBER') FROM pg_roles r WHERE r.rolname = '{role}'"
    );
    assert!(!ask::<bool>(&plane, &opens).await);
    assert!(PgConnection::connect(&ground::own_url(&plane, &tenants[0])).await.is_err());

    // The check would notice a function that drops the role or fails.
    administer(
        &plane,
        "CREATE OR REPLACE FUNCTION stellar.role_drop(tenant uuid) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
         AS $$ BEGIN EXECUTE format('DROP ROLE %I', stellar.role_of(tenant)); RETURN true; END $$",
    )
    .await;
    assert!(drop(&tenants[1]).await.is_err());
    let mut session = ground::session(&plane, Login::Own, &tenants[1]).await;
    assert!(matches!(ground::run(&mut session, "SELECT 1").await, Outcome::Rows(_)), "and so its role still opens");
}
